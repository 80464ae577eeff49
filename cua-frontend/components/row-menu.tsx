import { Ellipsis } from "lucide-react";

import { Button } from "./ui/button";
import { Menu, type MenuItem } from "./ui/menu";

/** What else can be done with a row. */
export function RowMenu({ of, items }: { of: string; items: (MenuItem | null)[] }) {
  return (
    <Menu
      trigger={
        <Button look="ghost" size="icon" aria-label={`More for ${of}`}>
          <Ellipsis />
        </Button>
      }
      items={items}
    />
  );
}
