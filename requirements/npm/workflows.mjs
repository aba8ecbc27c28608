// Read workflows and actions with GitHub's own parser and print what it refuses; scripts/lint.py runs this from the project's root.
import fs from "node:fs";
import { registerHooks } from "node:module";

// The packages import JSON without saying so, which Node refuses.
const json = { importAttributes: { type: "json" } };
registerHooks({ load: (url, context, next) => next(url, url.endsWith(".json") ? { ...context, ...json } : context) });
const { registerLogger, validate } = await import("@actions/languageservice");
const { TextDocument } = await import("vscode-languageserver-textdocument");

const say = (line) => {
  console.log(line);
  process.exitCode = 1;
};
const ignore = () => {};
// Where validate() itself breaks, it only logs, and returns no problems.
registerLogger({ error: say, warn: say, info: ignore, log: ignore });

const fileProvider = {
  getFileContent: async ({ path, repository }) => {
    if (repository) throw new Error("another repository is not read");
    return { name: path, content: fs.readFileSync(path, "utf8") };
  },
};

const [, , ...files] = process.argv;
if (!files.length) say("no files were named");
for (const file of files) {
  const text = fs.readFileSync(file, "utf8");
  const found = await validate(TextDocument.create(file, "yaml", 0, text), { fileProvider });
  for (const { message, range } of found) {
    const elsewhere = message === "Unable to find reusable workflow" && text.split("\n")[range.start.line].includes("@");
    if (!elsewhere) say(`${file}:${range.start.line + 1}: ${message}`);
  }
}
