import { Compass } from "lucide-react";

import { Problem } from "@/lib/problem";

import { Empty, Failure } from "./ui/states";

/** In place of one thing that could not be read; asking again is of no use where it does not exist. */
export function LoadFailure({ title, error, retry }: { title: string; error: Error; retry: () => void }) {
  const isMissing = error instanceof Problem && (error.status === 404 || error.status === 422);
  if (!isMissing) return <Failure title={title} error={error} retry={retry} />;
  return (
    <Empty icon={<Compass />} title="There is nothing here">
      It has been deleted, it is not yours to see, or the address is not complete.
    </Empty>
  );
}
