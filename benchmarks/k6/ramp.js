// 10, then 50, then 100 users, each thinking half a second to one and a half between two searches.
import { sleep } from "k6";
import { search, seconds, summaryTrendStats } from "./users.js";

export { handleSummary } from "./users.js";

const step = seconds / 6;

export const options = {
  summaryTrendStats,
  scenarios: {
    ramp: {
      executor: "ramping-vus",
      startVUs: 10,
      stages: [10, 50, 100].flatMap((target) => [
        { duration: `${step}s`, target },
        { duration: `${step}s`, target },
      ]),
      gracefulRampDown: "5s",
    },
  },
  thresholds: { http_req_duration: ["p(95)<500"], http_req_failed: ["rate<0.01"], checks: ["rate>0.99"] },
};

export default function () {
  search();
  sleep(0.5 + Math.random());
}
