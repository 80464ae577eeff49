/** A window with a pointer in it. */
export function Logo({ className }: { className?: string }) {
  return (
    <svg viewBox="0 0 24 24" fill="none" aria-hidden className={className}>
      <rect x="2" y="3" width="20" height="16" rx="4" className="fill-accent" />
      <path d="M9.5 8.5 18 12l-3.6 1.2L13 17z" fill="white" stroke="white" strokeWidth="1.2" strokeLinejoin="round" />
    </svg>
  );
}
