import type { Metadata } from "next";

import { User } from "@/features/admin/user";

export const metadata: Metadata = { title: "User" };

export default async function UserPage({ params }: { params: Promise<{ id: string }> }) {
  return <User id={decodeURIComponent((await params).id)} />;
}
