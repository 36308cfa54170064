// What is declared is there, and what is there for others is declared.

import * as actual from "./actual.js";
import * as declared from "./relay-client.js";

type Lacks<These, Those> = Exclude<keyof These, keyof Those>;
type Internal = `_${string}` | "begun" | "restart" | "apply" | "grow" | "proves"; // of the rules, for the connection
type Public<Kind> = { [Name in Exclude<keyof Kind, Internal>]: Kind[Name] };
type Callable = (...given: never[]) => unknown;
type NotCallable<These, Those> = {
  [Name in keyof These & keyof Those]: These[Name] extends Callable ? Those[Name] extends Callable ? never : Name : never;
}[keyof These & keyof Those];

/** Holds nothing: then it compiles. The names that it holds are in the error. */
type None<Names extends never> = Names;

export type Exports = [None<Lacks<typeof declared, typeof actual>>, None<Lacks<typeof actual, typeof declared>>];

export type Declared = [
  None<Lacks<declared.Relay, actual.Relay>>,
  None<Lacks<declared.Session, actual.Session>>,
  None<Lacks<declared.Generation, actual.Generation>>,
  None<Lacks<declared.RelayError, actual.RelayError>>,
  None<Lacks<declared.SessionView, actual.SessionView>>,
];

export type Methods = [
  None<NotCallable<declared.Relay, actual.Relay>>,
  None<NotCallable<declared.Session, actual.Session>>,
  None<NotCallable<declared.SessionView, actual.SessionView>>,
];

export type Undeclared = [
  None<Lacks<Public<actual.Relay>, declared.Relay>>,
  None<Lacks<Public<actual.Session>, declared.Session>>,
  None<Lacks<Public<actual.Generation>, declared.Generation>>,
  None<Lacks<Public<actual.RelayError>, declared.RelayError>>,
];
