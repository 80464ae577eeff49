"""Webhooks: events told to other servers, signed, until they have heard; and Clerk's own taken in."""
