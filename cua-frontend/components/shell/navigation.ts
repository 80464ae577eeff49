import {
  Activity,
  CalendarClock,
  ChartNoAxesColumn,
  FolderOpen,
  Hand,
  House,
  KeyRound,
  type LucideIcon,
  Monitor,
  Settings,
  ShieldUser,
  UserRoundCog,
  Workflow,
} from "lucide-react";

export interface Place {
  href: string;
  label: string;
  icon: LucideIcon;
  keys?: string;
  admin?: boolean;
}

export const PLACES: Place[] = [
  { href: "/", label: "Home", icon: House, keys: "g h" },
  { href: "/runs", label: "Runs", icon: Activity, keys: "g r" },
  { href: "/approvals", label: "Approvals", icon: Hand, keys: "g a" },
  { href: "/workflows", label: "Workflows", icon: Workflow, keys: "g w" },
  { href: "/schedules", label: "Schedules", icon: CalendarClock, keys: "g s" },
  { href: "/files", label: "Files", icon: FolderOpen, keys: "g f" },
  { href: "/computers", label: "Computers", icon: Monitor },
  { href: "/profiles", label: "Profiles", icon: UserRoundCog },
  { href: "/secrets", label: "Secrets", icon: KeyRound },
  { href: "/usage", label: "Usage", icon: ChartNoAxesColumn, keys: "g u" },
  { href: "/settings", label: "Settings", icon: Settings, keys: "g p" },
  { href: "/admin", label: "Admin", icon: ShieldUser, admin: true },
];
