SET session_replication_role = replica;

--
-- PostgreSQL database dump
--

\restrict Zk1

SET statement_timeout = 0;
SET transaction_timeout = 0;
SELECT pg_catalog.set_config('search_path', '', false);

--
-- Data for Name: audit_log_entries; Type: TABLE DATA; Schema: auth; Owner: supabase_auth_admin
--

COPY "auth"."custom_oauth_providers" ("id") FROM stdin;
\.


COPY "auth"."users" ("instance_id", "id", "aud", "role", "email", "encrypted_password", "email_confirmed_at", "raw_app_meta_data", "raw_user_meta_data", "is_super_admin", "created_at", "phone", "phone_change", "is_sso_user", "is_anonymous") FROM stdin;
00000000-0000-0000-0000-000000000000	11111111-1111-4111-8111-111111111111	authenticated	authenticated	ada@example.com	$2a$10$abc	2026-01-01 00:00:00+00	{"provider": "email", "providers": ["email"]}	{"name": "Ada; \\"the\\" first"}	\N	2026-01-01 00:00:00+00	\N		f	f
\.


INSERT INTO "auth"."identities" ("provider_id", "user_id", "identity_data", "provider", "last_sign_in_at", "created_at", "updated_at", "id") VALUES
	('11111111-1111-4111-8111-111111111111', '11111111-1111-4111-8111-111111111111', '{"sub": "11111111-1111-4111-8111-111111111111", "email": "Ada@example.com"}', 'email', '2026-01-01 00:00:00+00', '2026-01-01 00:00:00+00', '2026-01-01 00:00:00+00', '22222222-2222-4222-8222-222222222222');


COPY "public"."notes" ("id", "owner_id", "state", "body", "updated_at") FROM stdin;
1	11111111-1111-4111-8111-111111111111	draft	one; two\nthree 'quoted' $$ -- not a comment	2026-01-02 00:00:00+00
2	99999999-9999-4999-8999-999999999999	published	\N	2026-01-02 00:00:00+00
\.


INSERT INTO "storage"."buckets" ("id", "name", "owner", "created_at", "updated_at", "public", "avif_autodetection", "file_size_limit", "allowed_mime_types", "owner_id", "type") VALUES
	('files', 'files', NULL, '2026-01-01 00:00:00+00', '2026-01-01 00:00:00+00', false, false, NULL, NULL, NULL, 'STANDARD');


SELECT pg_catalog.setval('"auth"."refresh_tokens_id_seq"', 7, true);


SELECT pg_catalog.setval('"pgsodium"."key_key_id_seq"', 1, false);


SELECT pg_catalog.setval('"public"."notes_id_seq"', 2, true);


SELECT pg_catalog.setval('"supabase_functions"."hooks_id_seq"', 1, false);


\unrestrict Zk1

RESET ALL;
