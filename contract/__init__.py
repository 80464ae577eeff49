"""What the server promises, as documents: OpenAPI, AsyncAPI, and the pages that are made from the code."""
