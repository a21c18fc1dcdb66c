// Validate AsyncAPI documents: node validate.cjs FILE…
// Prints what is wrong as "file: place: sentence", and exits 1 if anything is. Warnings count.
"use strict";
const { readFileSync } = require("node:fs");
const { Parser } = require("@asyncapi/parser");

async function problemsOf(file) {
  const parser = new Parser();
  const { document, diagnostics } = await parser.parse(readFileSync(file, "utf8"), { source: file });
  const problems = diagnostics.map((one) => `${file}: ${one.path.join(".")}: ${one.message} (${one.code})`);
  if (!document && problems.length === 0) problems.push(`${file}: not an AsyncAPI document`);
  return problems;
}

async function main() {
  const problems = (await Promise.all(process.argv.slice(2).map(problemsOf))).flat();
  problems.forEach((problem) => console.log(problem));
  process.exitCode = problems.length === 0 ? 0 : 1;
}

main();
