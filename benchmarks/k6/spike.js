// 10 users, of a sudden 300 for a third of the time, then 10 again.
import { sleep } from "k6";
import { search, seconds, summaryTrendStats } from "./users.js";

export { handleSummary } from "./users.js";

const third = seconds / 3;

export const options = {
  summaryTrendStats,
  scenarios: {
    spike: {
      executor: "ramping-vus",
      startVUs: 10,
      stages: [
        { duration: `${third}s`, target: 10 },
        { duration: "1s", target: 300 },
        { duration: `${third}s`, target: 300 },
        { duration: "1s", target: 10 },
        { duration: `${third}s`, target: 10 },
      ],
      gracefulRampDown: "5s",
    },
  },
  thresholds: { http_req_duration: ["p(95)<500"], http_req_failed: ["rate<0.01"], checks: ["rate>0.99"] },
};

export default function () {
  search();
  sleep(0.5 + Math.random());
}
