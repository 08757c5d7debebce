// Library of the tests of the web pages: one browser, a context for each test that records
// problems, access to the REST API to prepare objects, and a test runner.
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { mkdirSync } from "node:fs";
import { createRequire } from "node:module";

const require = createRequire(`${process.env.BROWSER_MODULES}/`);
const { chromium, request } = require("playwright-core");
export const axe = require("axe-core").source;

export const BASE = new URL(process.env.PREWARMER_URL).origin;
export const TOKEN = process.env.PREWARMER_TOKEN;
export const READ_TOKEN = process.env.PREWARMER_READ_TOKEN;
export const NAMESPACE = process.env.PREWARMER_TEST_NAMESPACE || "shop";
export const SHOTS = process.env.SHOTS;
export const COOKIE = "__Host-prewarmer";
/** Identifier of this run, part of the name of every object that it creates. */
export const RUN = `run${randomBytes(4).toString("hex")}`;
/** Timeout of a task on all nodes, in milliseconds. */
export const LONG = 90_000;
/** Number of tests that run concurrently. */
const LANES = 3;

if (SHOTS) mkdirSync(SHOTS, { recursive: true });

const FLAGS = [
  "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync",
];
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM || "/usr/bin/chromium", args: FLAGS });

// ---- access to the REST API, outside of the browser

const rest = await request.newContext({ ignoreHTTPSErrors: true, extraHTTPHeaders: { authorization: `Bearer ${TOKEN}` } });
const made = { tasks: [], "scheduled-tasks": [] };

/** Registers an object created by a page for deletion at the end of the run. */
export const remember = (kind, id) => made[kind].push(id);

export async function api(method, path, data) {
  const answer = await rest.fetch(`${BASE}/api/v1/${path}`, { method, data });
  if (!answer.ok()) throw new Error(`${method} ${path}: ${answer.status()} ${await answer.text()}`);
  const text = await answer.text();
  return text ? JSON.parse(text) : null;
}

/** Creates a task, and returns it with the path of its page. */
export async function task(image, more = {}) {
  const body = {
    images: [`registry.example/${RUN}/${image}`], namespace: NAMESPACE, nodeSelector: { type: "fake" }, batchSize: 100,
    successThreshold: "100%", ttlSecondsAfterFinished: 900, ...more,
  };
  const one = await api("POST", "tasks", body);
  made.tasks.push(one.taskId);
  return { ...one, path: `/ui/tasks/${NAMESPACE}/${one.taskId}` };
}

export const getTask = (one) => api("GET", `tasks/${one.taskId}?namespace=${NAMESPACE}`);

export async function schedule(more = {}) {
  const body = {
    name: `${RUN} nightly`, cronExpr: "30 2 * * *", namespace: NAMESPACE,
    taskConfig: { images: [`registry.example/${RUN}/nightly:1`], nodeSelector: { type: "fake" }, nodes: 10, ttlSecondsAfterFinished: 900 },
    ...more,
  };
  const one = await api("POST", "scheduled-tasks", body);
  made["scheduled-tasks"].push(one.id);
  return { ...one, path: `/ui/schedules/${NAMESPACE}/${one.id}` };
}

/** Creates a task that runs for minutes, one node after another. */
export const endless = (image) => task(`slow-${image}`, { batchSize: 1 });

/** Waits for a condition outside of the pages, up to `limit` milliseconds. */
export async function until(what, condition, limit = LONG) {
  const end = Date.now() + limit;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (Date.now() > end) throw new Error(`timeout waiting for: ${what}`);
    await new Promise((done) => setTimeout(done, 100));
  }
}

export const ended = (one) =>
  until(`the end of ${one.taskId}`, async () => ["completed", "failed", "cancelled"].includes((await getTask(one)).status));

const shared = new Map();
/** Creates an object once that several tests read and none changes. */
function once(name, make) {
  if (!shared.has(name)) shared.set(name, make());
  return shared.get(name);
}
export const fixtures = {
  // Long names without a line break opportunity, to test the width of pages.
  running: () => once("running", () => endless(`${"fixture".repeat(12)}:1`)),
  completed: () => once("completed", async () => { const one = await task("fixture:1", { nodes: 40 }); await ended(one); return one; }),
  failed: () => once("failed", async () => { const one = await task(`missing-${"fixture".repeat(12)}:1`, { nodes: 12 }); await ended(one); return one; }),
  schedule: () => once("schedule", async () => {
    const one = await schedule({ name: `${RUN} ${"nightly".repeat(6)}` });
    await api("POST", `scheduled-tasks/${one.id}/trigger?namespace=${NAMESPACE}`);
    return one;
  }),
};

// ---- pages

/** Records in the page its event streams, and the number of parts that they have updated. */
function spy() {
  window.streams = [];
  window.EventSource = class extends EventSource {
    constructor(...all) { super(...all); window.streams.push(this); }
  };
  window.renewed = 0;
  document.addEventListener("htmx:sseMessage", () => { window.renewed += 1; });
}

/**
 * Opens a page in a new context. Options: `token` signs in, `origins` lists further origins that may be
 * requested; other options are passed to Playwright.
 */
async function open(test, { token, origins = [], ...options } = {}) {
  const context = await browser.newContext({ ignoreHTTPSErrors: true, viewport: { width: 1280, height: 900 }, ...options });
  test.contexts.push(context);
  context.setDefaultTimeout(45_000);
  const note = (words) => { if (!test.expected.some((known) => known.test(words))) test.problems.push(words); };
  context.on("console", (message) => {
    // htmx logs an aborted preview when the input changes or the form is submitted.
    const givenUp = /^htmx:(afterRequest|sendAbort), /.test(message.text());
    if (["error", "warning"].includes(message.type()) && !givenUp) note(`console: ${message.text()} (${message.location().url})`);
  });
  context.on("weberror", (error) => note(`error in a page: ${error.error().stack ?? error.error()}`));
  context.on("request", (asked) => {
    const { origin, protocol } = new URL(asked.url());
    if (protocol !== "about:" && origin !== BASE && !origins.includes(origin)) note(`request to another origin: ${asked.url()}`);
  });
  context.on("requestfailed", (asked) => {
    const words = asked.failure()?.errorText ?? "";
    // The browser reports ERR_ABORTED for requests that it cancels itself: streams and icons when a
    // page is left, a preview when the input changes. Failures caused by the server have other
    // error texts.
    if (words !== "net::ERR_ABORTED") note(`request failed: ${asked.url()} ${words}`);
  });
  await context.addInitScript(spy);
  if (token) await signInAs(context, token);
  const page = await context.newPage();
  watchDialogs(test, page);
  return page;
}

/**
 * Answers dialogs with the values in `page.answers`, and records them in `page.asked`. Further
 * dialogs are problems.
 */
export function watchDialogs(test, page) {
  page.answers = [];
  page.asked = [];
  page.on("dialog", (dialog) => {
    page.asked.push(dialog.message());
    if (page.answers.length === 0) test.problems.push(`unexpected dialog: ${dialog.message()}`);
    return page.answers.shift() ? dialog.accept() : dialog.dismiss();
  });
}

export const signInAs = (context, token) => context.addCookies([
  { name: COOKIE, value: token, domain: new URL(BASE).hostname, path: "/", secure: true, httpOnly: true, sameSite: "Lax" },
]);

export const go = (page, path) => page.goto(BASE + path);

/** Returns the text of a single element. */
export const text = async (page, selector) => (await page.locator(selector).innerText()).trim();

/** Waits until an element contains this text. */
export const expectText = (page, selector, wanted, timeout = 45_000) =>
  page.locator(selector).filter({ hasText: wanted }).first().waitFor({ timeout });

export const badge = (page, word, timeout = LONG) => expectText(page, `section[aria-label=Progress] .badge`, word, timeout);

/** Waits until a stream has updated the page. */
export const renewed = (page) => page.waitForFunction(() => window.renewed > 0);

/** Waits until all streams are closed, so that the browser does not reconnect. */
export const closed = (page) =>
  page.waitForFunction(() => window.streams.length > 0 && window.streams.every((one) => one.readyState === EventSource.CLOSED));

/** Returns the share of the grid's pixels by colour, with the names of the CSS variables. */
export const painted = (page) => page.evaluate(() => {
  const canvas = document.getElementById("grid");
  const style = getComputedStyle(document.documentElement);
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const counts = new Map();
  for (let at = 0; at < data.length; at += 4) {
    const key = (data[at] << 16) | (data[at + 1] << 8) | data[at + 2];
    if (data[at + 3] === 255) counts.set(key, (counts.get(key) ?? 0) + 1);
  }
  const share = (name) => (counts.get(parseInt(style.getPropertyValue(name).trim().slice(1), 16)) ?? 0) * 4 / data.length;
  return { warm: share("--warm"), already: share("--already"), bad: share("--bad"), wait: share("--wait"), work: share("--work") };
});

export async function noOverflow(page, what) {
  const [whole, seen] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
  assert.ok(whole <= seen, `${what} is ${whole} px wide on a screen of ${seen} px`);
}

// ---- the runner

const tests = [];
/** Registers a test. `expected` lists patterns of problems that the test causes on purpose. */
export const test = (name, body, expected = []) => tests.push({ name, body, expected, problems: [], contexts: [], failed: null });

async function runOne(one) {
  const begun = Date.now();
  let timer;
  const late = new Promise((_, reject) => { timer = setTimeout(() => reject(new Error("timeout of 300 s")), 300_000); });
  const lines = [];
  const page = (options) => open(one, options);
  try {
    await Promise.race([one.body({ open: page, say: (words) => lines.push(words), test: one }), late]);
    assert.deepEqual(one.problems, [], "problems were recorded during the test");
  } catch (error) {
    one.failed = error;
    const pages = one.contexts.flatMap((context) => context.pages());
    for (const [index, page] of pages.entries()) {
      lines.push(`at ${page.url()}`);
      if (SHOTS) await page.screenshot({ path: `${SHOTS}/failed-${one.name.replace(/\W+/g, "-")}-${index}.png` }).catch(() => {});
    }
  }
  clearTimeout(timer);
  await Promise.all(one.contexts.map((context) => context.close().catch(() => {})));
  console.log(`${one.failed ? "FAILED" : "ok    "} ${((Date.now() - begun) / 1000).toFixed(1).padStart(5)} s  ${one.name}`);
  for (const line of lines) console.log(`                  ${line}`);
  if (one.failed) {
    console.log(`  ${String(one.failed.stack ?? one.failed).replaceAll("\n", "\n  ")}`);
    for (const problem of one.problems) console.log(`  problem: ${problem}`);
  }
}

async function tidyUp() {
  const gone = (kind) => made[kind].map((id) => api("DELETE", `${kind}/${id}?namespace=${NAMESPACE}`).catch(() => {}));
  // Errors are ignored: ended tasks cannot be cancelled, and deleted objects do not exist.
  for (const kind of Object.keys(made)) await Promise.all(gone(kind));
}

export async function run() {
  const begun = Date.now();
  const chosen = tests.filter((one) => new RegExp(process.env.ONLY ?? "").test(one.name));
  const waiting = [...chosen];
  // Slow fixtures are created now, unless ONLY selects tests. The tests that need them report
  // failures.
  if (!process.env.ONLY) for (const make of Object.values(fixtures)) make().catch(() => {});
  const lane = async () => { for (let one = waiting.shift(); one; one = waiting.shift()) await runOne(one); };
  await Promise.all(Array.from({ length: LANES }, lane));
  await tidyUp();
  await browser.close();
  await rest.dispose();
  const failed = chosen.filter((one) => one.failed);
  const took = `${Math.round((Date.now() - begun) / 1000)} s`;
  if (failed.length > 0 || chosen.length === 0) {
    console.log(`browser tests: FAILED, ${failed.length} of ${chosen.length} tests, after ${took}`);
    process.exitCode = 1;
  } else {
    console.log(`browser tests: all ${chosen.length} tests passed in ${took}`);
  }
}
