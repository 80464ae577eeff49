import { toast } from "@/components/ui/toast";
import { fetchBlob } from "@/lib/client";

/** Saves a workflow as a file that Chrome DevTools' Recorder opens. */
export async function downloadRecording({ id, name }: { id: string; name: string }): Promise<void> {
  try {
    const url = URL.createObjectURL(await fetchBlob(`/api/workflows/${id}/export`));
    const link = document.createElement("a");
    link.href = url;
    link.download = `${name.replaceAll(/[^\p{L}\p{N} ._&-]+/gu, "-").trim() || "workflow"}.json`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  } catch (error) {
    toast.failed("The workflow was not exported", error);
  }
}
