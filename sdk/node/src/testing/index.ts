/**
 * A KeyVault server in memory, for the tests of programs that use this package.
 *
 * It keeps the rule of the real server: a mutation is accepted if and only if its envelope opens under the data key
 * that the stored record commits to, at the stored revision + 1. {@link TestServer.fail} makes it fail.
 *
 * @module
 */
export { Refusal, type StatusName } from "./refusal.js";
export { TENANT } from "./rule.js";
export { type Method, TestServer } from "./server.js";
