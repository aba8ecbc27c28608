// Evaluate expressions with GitHub's own evaluator: [[expression, contexts, status], ...] comes in as JSON, their values go out.
import fs from "node:fs";
import { Evaluator, Lexer, Parser, data } from "@actions/expressions";

const statuses = (now) => [
  ["always", true],
  ["success", now === "success"],
  ["failure", now === "failure"],
  ["cancelled", now === "cancelled"],
];
const evaluate = ([expression, contexts, now]) => {
  const functions = statuses(now).map(([name, value]) => ({ name, minArgs: 0, maxArgs: 0, call: () => new data.BooleanData(value) }));
  const known = new Map(functions.map((each) => [each.name, each]));
  const parsed = new Parser(new Lexer(expression).lex().tokens, Object.keys(contexts), functions).parse();
  return new Evaluator(parsed, JSON.parse(JSON.stringify(contexts), data.reviver), known).evaluate();
};
console.log(JSON.stringify(JSON.parse(fs.readFileSync(0, "utf8")).map(evaluate), data.replacer));
