// What users ask of the mesh over REST, and how they are told apart from errors. benchmarks/rest.py sets the environment:
// EDGE (the edge's URL), TOKEN, COLLECTION (searched), INBOX (written to), QUESTIONS (a JSON file), SECONDS, SUMMARY (a file).
import http from "k6/http";
import { check } from "k6";
import { SharedArray } from "k6/data";

const questions = new SharedArray("questions", () => JSON.parse(open(__ENV.QUESTIONS)));
const prefix = `${__ENV.EDGE}/api/v1/rag`;
const headers = { authorization: `Bearer ${__ENV.TOKEN}`, "content-type": "application/json" };

// Running sums of Zipf's law: the question of rank r is asked as often as 1 / r.
const sums = [];
for (let rank = 1; rank <= questions.length; rank++) {
  sums.push((sums[rank - 2] || 0) + 1 / rank);
}

export const seconds = Number(__ENV.SECONDS);
export const summaryTrendStats = ["avg", "med", "p(95)", "p(99)", "max"];

function ranked() {
  const drawn = Math.random() * sums[sums.length - 1];
  let low = 0;
  let high = sums.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sums[middle] < drawn) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return questions[low];
}

function call(name, method, path, body) {
  const answer = http.request(method, `${prefix}${path}`, body && JSON.stringify(body), { headers, tags: { name } });
  return { name, answer };
}

export function search() {
  const { answer } = call("search", "POST", "/search", { query: ranked(), collection: __ENV.COLLECTION });
  check(answer, { "a search has hits": (got) => got.status === 200 && got.body.includes('"hits":[{') });
}

export function read() {
  if (Math.random() < 0.5) {
    call("get", "GET", `/collections/${__ENV.COLLECTION}`);
  } else {
    call("list", "GET", `/collections/${__ENV.COLLECTION}/documents?pageSize=10`);
  }
}

export function write() {
  if (Math.random() < 0.5) {
    const description = `as of ${Date.now()}`;
    call("update", "PATCH", `/collections/${__ENV.INBOX}?updateMask=description`, { description });
  } else {
    const text = `A note of user ${__VU} in turn ${__ITER}, of no great length.`;
    call("create", "POST", `/collections/${__ENV.INBOX}/documents`, { text });
  }
}

export function handleSummary(data) {
  return { [__ENV.SUMMARY]: JSON.stringify(data) };
}
