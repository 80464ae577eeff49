"use client";

import { useMutation, useQueryClient } from "@tanstack/react-query";
import { Monitor, Plus, Power } from "lucide-react";
import Link from "next/link";
import { useState } from "react";

import { ResourceRow } from "@/components/resource-row";
import { Ago } from "@/components/time";
import { Badge } from "@/components/ui/badge";
import { Button } from "@/components/ui/button";
import { Confirm } from "@/components/ui/dialog";
import { Page, Rows } from "@/components/ui/page";
import { Empty, Failure, Skeletons } from "@/components/ui/states";
import { toast } from "@/components/ui/toast";
import { type ComputerRead, deleteComputer } from "@/lib/api";
import { call } from "@/lib/client";
import { keys } from "@/lib/keys";

import { NewComputer } from "./new-computer";
import { useOpenComputers } from "./queries";
import { ComputerStateBadge } from "./state";

/** The browsers that are open. */
export function Computers() {
  const cache = useQueryClient();
  const [isNew, setIsNew] = useState(false);
  const [closing, setClosing] = useState<ComputerRead | null>(null);
  const computers = useOpenComputers();
  const close = useMutation({
    mutationFn: (computer: ComputerRead) => call(deleteComputer({ path: { id: computer.id } })),
    onSuccess: () => {
      setClosing(null);
      return cache.invalidateQueries({ queryKey: keys.lists("computer") });
    },
    onError: (error) => toast.failed("The computer was not closed", error),
  });
  const open = (
    <Button look="primary" onClick={() => setIsNew(true)}>
      <Plus /> Open a computer
    </Button>
  );
  return (
    <Page title="Computers" description="Browsers that are open now: those of runs, and those that you use by hand." actions={open}>
      {computers.isPending ? (
        <Skeletons className="h-16" count={2} />
      ) : computers.error ? (
        <Failure title="The computers could not be read" error={computers.error} retry={() => void computers.refetch()} />
      ) : computers.data.length === 0 ? (
        <Empty icon={<Monitor />} title="No computer is open" action={open}>
          Open one to use a browser by hand, for instance to sign in to a site for a profile. Runs open their own.
        </Empty>
      ) : (
        <Rows label="Computers">
          {computers.data.map((computer) => (
            <li key={computer.id}>
              <ResourceRow
                icon={<Monitor />}
                title={
                  <Link href={`/computers/${computer.id}`} className="underline-offset-2 hover:underline">
                    {computer.name}
                  </Link>
                }
                badges={
                  <>
                    <ComputerStateBadge state={computer.state} />
                    {computer.for_run && <Badge>Of a run</Badge>}
                    {computer.control_state === "granted" && <Badge look="warn">A person steers</Badge>}
                  </>
                }
                detail={
                  <>
                    {computer.title || computer.url || "No page yet"} · opened <Ago at={computer.created_at} />
                  </>
                }
                actions={
                  computer.for_run ? undefined : (
                    <Button size="sm" look="danger" onClick={() => setClosing(computer)}>
                      <Power /> Close
                    </Button>
                  )
                }
              />
            </li>
          ))}
        </Rows>
      )}
      {isNew && <NewComputer onClose={() => setIsNew(false)} />}
      <CloseComputer computer={closing} busy={close.isPending} onCancel={() => setClosing(null)} onConfirm={(computer) => close.mutate(computer)} />
    </Page>
  );
}

interface CloseComputerProps {
  computer: ComputerRead | null;
  busy: boolean;
  onCancel: () => void;
  onConfirm: (computer: ComputerRead) => void;
}

export function CloseComputer({ computer, busy, onCancel, onConfirm }: CloseComputerProps) {
  return (
    <Confirm
      open={computer !== null}
      onOpenChange={onCancel}
      title="Close the computer?"
      description="Its pages close. Sign-ins that were not saved to a profile are lost."
      action="Close it"
      busy={busy}
      onConfirm={() => computer && onConfirm(computer)}
    />
  );
}
