"use client";

import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { LogOut, MonitorSmartphone, Smartphone } from "lucide-react";
import { useState } from "react";

import { List, useList } from "@/components/list";
import { ResourceRow } from "@/components/resource-row";
import { Ago } from "@/components/time";
import { Badge } from "@/components/ui/badge";
import { Button } from "@/components/ui/button";
import { Confirm } from "@/components/ui/dialog";
import { Section } from "@/components/ui/page";
import { Empty } from "@/components/ui/states";
import { toast } from "@/components/ui/toast";
import { deleteSession, listSessions, type SessionRead } from "@/lib/api";
import { useConfig } from "@/lib/auth/provider";
import { getToken, useSession } from "@/lib/auth/session";
import { call, page } from "@/lib/client";
import { keys } from "@/lib/keys";

import { deviceName, isPhone } from "./device";

/** Where one is signed in. */
export function Sessions() {
  const cache = useQueryClient();
  const session = useSession();
  const embedded = useConfig()?.auth.mode === "embedded";
  const [ending, setEnding] = useState<SessionRead | "others" | null>(null);
  const here = useQuery({ queryKey: keys.about("sign-in"), queryFn: async () => sessionId(await getToken()), staleTime: Infinity });
  const sessions = useList(keys.list("session"), (cursor) => page(listSessions({ query: { cursor } })), { enabled: embedded });
  const others = sessions.data?.filter((each) => each.id !== here.data) ?? [];
  const end = useMutation({
    mutationFn: async (ids: string[]) => {
      for (const id of ids) await call(deleteSession({ path: { id } }));
    },
    onSuccess: () => setEnding(null),
    onError: (error) => toast.failed("Not ended", error),
    onSettled: () => cache.invalidateQueries({ queryKey: keys.lists("session") }),
  });
  if (!embedded) {
    return (
      <Empty icon={<MonitorSmartphone />} title="Your sign-ins are kept elsewhere">
        This server does not sign people in itself. See your sign-ins, and end them, where you signed in.
      </Empty>
    );
  }
  return (
    <Section
      title="Where you are signed in"
      actions={
        here.data &&
        others.length > 0 && (
          <Button size="sm" look="danger" onClick={() => setEnding("others")}>
            End all others
          </Button>
        )
      }
    >
      <List query={sessions} label="Sign-ins" failed="Your sign-ins could not be read" empty={<Empty icon={<MonitorSmartphone />} title="No sign-ins">There are none that could be ended here.</Empty>}>
        {(each) => (
          <ResourceRow
            icon={isPhone(each.user_agent) ? <Smartphone /> : <MonitorSmartphone />}
            title={deviceName(each.user_agent)}
            badges={each.id === here.data && <Badge look="good">This device</Badge>}
            detail={
              <>
                {each.address ?? "Address unknown"} · signed in <Ago at={each.created_at} /> · last seen <Ago at={each.updated_at} />
              </>
            }
            actions={
              each.id === here.data ? (
                <Button size="sm" onClick={() => void session.signOut().catch((error: unknown) => toast.failed("Not signed out", error))}>
                  <LogOut /> Sign out
                </Button>
              ) : (
                <Button size="sm" look="danger" aria-label={`End the sign-in of ${deviceName(each.user_agent)}`} onClick={() => setEnding(each)}>
                  End
                </Button>
              )
            }
          />
        )}
      </List>
      <Confirm
        open={ending !== null}
        onOpenChange={() => setEnding(null)}
        title={ending === "others" ? "End all other sign-ins?" : "End the sign-in?"}
        description="Whoever uses it has to sign in again. If it was not you, change your password as well."
        action="End"
        busy={end.isPending}
        onConfirm={() => ending && end.mutate(ending === "others" ? others.map((each) => each.id) : [ending.id])}
      />
    </Section>
  );
}

/** The sign-in to which an access token belongs; only the server judges whether the token is good. */
function sessionId(token: string | null): string | null {
  try {
    const [, claims = ""] = (token ?? "").split(".");
    const { sid } = JSON.parse(atob(claims.replaceAll("-", "+").replaceAll("_", "/"))) as { sid?: string };
    return sid ?? null;
  } catch {
    return null;
  }
}
