import { Compass } from "lucide-react";
import Link from "next/link";

import { Button } from "./ui/button";
import { Page } from "./ui/page";
import { Empty } from "./ui/states";

/** For addresses below the frame that lead nowhere. */
export function NothingHere() {
  return (
    <Page title="There is nothing here">
      <Empty
        icon={<Compass />}
        title="The address leads nowhere"
        action={
          <Button asChild>
            <Link href="/">Go home</Link>
          </Button>
        }
      >
        What was here has been deleted, or it is not yours to see.
      </Empty>
    </Page>
  );
}
