// Octokit through relay: pages, and follows the URLs of the answers' JSON. Called by paging.py.
//
//     node paging.mjs BASE_URL TOKEN          prints what was seen, as JSON
import { Octokit } from "@octokit/rest";

const [baseUrl, auth] = process.argv.slice(2);
const octokit = new Octokit({ baseUrl, auth });
const seen = { repos: 0, followed: 0, issues: 0, templated: 0 };
for (const repo of await octokit.paginate(octokit.rest.repos.listForAuthenticatedUser, { per_page: 2 })) {
  seen.repos += 1;
  // As scripts do: absolute URLs and URI templates out of the JSON, straight into the next request.
  const whole = await octokit.request(`GET ${repo.url}`);
  seen.followed += whole.data.name === repo.name ? 1 : 0;
  const issues = await octokit.paginate(`GET ${whole.data.url}/issues`, { per_page: 2 });
  seen.issues += issues.length;
  const one = await octokit.request(`GET ${repo.issues_url}`, { number: issues[0].number });
  seen.templated += one.data.number === issues[0].number ? 1 : 0;
}
console.log(JSON.stringify(seen));
