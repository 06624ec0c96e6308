// 500 requests a second, whatever becomes of those before: 90 % searches, 8 % other reads, 2 % writes.
import { read, search, seconds, summaryTrendStats, write } from "./users.js";

export { handleSummary } from "./users.js";

export const options = {
  summaryTrendStats,
  scenarios: {
    mixed: {
      executor: "constant-arrival-rate",
      rate: 500,
      timeUnit: "1s",
      duration: `${seconds}s`,
      preAllocatedVUs: 100,
      maxVUs: 500,
    },
  },
  thresholds: {
    http_req_duration: ["p(95)<500", "p(99)<1000"],
    http_req_failed: ["rate==0"],
    dropped_iterations: ["count==0"],
    checks: ["rate==1"],
  },
};

export default function () {
  const drawn = Math.random();
  if (drawn < 0.9) {
    search();
  } else if (drawn < 0.98) {
    read();
  } else {
    write();
  }
}
