"""``unstale dev``: a Supabase project on this machine, with a worker that follows it."""
