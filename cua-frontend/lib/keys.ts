/** The names under which things are in the query cache; lists are below `list`, so that events find them. */
export const keys = {
  list: (type: ResourceType, filters: Record<string, unknown> = {}) => [type, "list", filters] as const,
  lists: (type: ResourceType) => [type, "list"] as const,
  one: (type: ResourceType, id: string) => [type, "one", id] as const,
  /** Something that hangs below one thing, as a run's steps. */
  of: (type: ResourceType, id: string, what: string) => [type, "of", id, what] as const,
  /** What is asked or counted of no single thing; all of a subject can be refreshed together. */
  about: (subject: "admin" | "analytics" | "config" | "cron" | "sign-in" | "usage" | "verdict", ...what: unknown[]) => [subject, ...what] as const,
};

export type ResourceType =
  | "approval"
  | "computer"
  | "delivery"
  | "file"
  | "key"
  | "message"
  | "profile"
  | "run"
  | "schedule"
  | "secret"
  | "session"
  | "step"
  | "thread"
  | "user"
  | "webhook"
  | "workflow";
