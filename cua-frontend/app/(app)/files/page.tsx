import type { Metadata } from "next";

import { Files } from "@/features/files/files";

export const metadata: Metadata = { title: "Files" };

export default function FilesPage() {
  return <Files />;
}
