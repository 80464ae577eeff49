/** What is wrong with a whole form, above its fields. */
export function FormError({ error }: { error: Error }) {
  return (
    <p role="alert" className="rounded-md bg-bad-soft px-3 py-2 text-sm break-words text-bad">
      {error.message}
    </p>
  );
}
