"""Services and programs of others: a double of OpenAI's and Supabase's APIs, and official programs."""
