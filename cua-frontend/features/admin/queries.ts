"use client";

import { useMutation, useQueryClient } from "@tanstack/react-query";

import { updateUser, type UserUpdate } from "@/lib/api";
import { call } from "@/lib/client";
import { keys } from "@/lib/keys";

/** Changes a user and shows the change wherever the user is shown. */
export function useUpdateUser(id: string) {
  const cache = useQueryClient();
  return useMutation({
    mutationFn: (body: UserUpdate) => call(updateUser({ path: { user: id }, body })),
    onSuccess: (user) => {
      cache.setQueryData(keys.one("user", id), user);
      return cache.invalidateQueries({ queryKey: keys.lists("user") });
    },
  });
}
