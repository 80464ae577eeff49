import { Ellipsis } from "lucide-react";

import { Button } from "./ui/button";
import { Menu, type MenuItem } from "./ui/menu";

/** What else can be done with a thing; `of` names it where there are several. */
export function MoreMenu({ of, items }: { of?: string; items: (MenuItem | null)[] }) {
  return (
    <Menu
      trigger={
        <Button look="ghost" size="icon" aria-label={of ? `More for ${of}` : "More"}>
          <Ellipsis />
        </Button>
      }
      items={items}
    />
  );
}
