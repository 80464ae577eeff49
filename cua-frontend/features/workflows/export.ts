import { toast } from "@/components/ui/toast";
import { fetchBlob } from "@/lib/client";
import { downloadBlob } from "@/lib/download";

/** Saves a workflow as a file that Chrome DevTools' Recorder opens. */
export async function downloadRecording({ id, name }: { id: string; name: string }): Promise<void> {
  try {
    const file = name.replaceAll(/[^\p{L}\p{N} ._&-]+/gu, "-").trim() || "workflow";
    downloadBlob(await fetchBlob(`/api/workflows/${id}/export`), `${file}.json`);
  } catch (error) {
    toast.failed("The workflow was not exported", error);
  }
}
