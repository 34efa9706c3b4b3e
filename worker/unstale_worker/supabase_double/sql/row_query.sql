-- The text of a query that tells whether a row of table $1.$2 is visible; its parameter holds the values of the
-- key columns $3, as text.
select format(
    'select exists (select from %I.%I as t where %s)', $1::text, $2::text,
    (
        select string_agg(format('t.%I::text = ($1::text[])[%s]', name, position), ' and ')
        from unnest($3::text[]) with ordinality as k (name, position)
    )
)
