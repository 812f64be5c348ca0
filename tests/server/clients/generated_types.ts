// Compiled, never run: what a program in TypeScript writes with the types of openapi-typescript.
import type { components, operations, paths } from "./generated";

type Reply<Name extends keyof operations> = operations[Name] extends {
  responses: { 200: { content: { "application/json": infer Body } } };
}
  ? Body
  : never;

const body: components["schemas"]["SearchBody"] = {
  terms: [{ text: "red heart" }, { text: "drawing", weight: -0.5 }],
  k: 20,
  filters: [{ column: "width", op: ">=", value: 100 }],
};
export const request: paths["/v1/search"]["post"]["requestBody"]["content"]["application/json"] = body;

export function list(reply: Reply<"search">): [string, number | null][] {
  return reply.hits.map((hit) => [hit.name, hit.score]);
}

export function explain(error: components["schemas"]["ErrorReply"]): string {
  return `${error.error.code}: ${error.error.message}`;
}

// @ts-expect-error an operator that there is none of
export const wrong: components["schemas"]["FilterBody"] = { column: "width", op: "~" };
