import type { ReactNode } from "react";

import { PageTabs } from "@/components/page-tabs";
import { Page } from "@/components/ui/page";

const TABS = [
  ["/settings/account", "Account"],
  ["/settings/keys", "API keys"],
  ["/settings/webhooks", "Webhooks"],
  ["/settings/sessions", "Sign-ins"],
  ["/settings/appearance", "Appearance"],
] as const;

export default function SettingsLayout({ children }: { children: ReactNode }) {
  return (
    <Page title="Settings">
      <PageTabs label="Settings" tabs={TABS} />
      {children}
    </Page>
  );
}
