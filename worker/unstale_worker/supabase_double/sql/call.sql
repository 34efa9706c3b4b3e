-- The text of the statement that calls function $2 of schema $1, as PostgREST builds it: its arguments $3 of types $4
-- by name out of one json object, its own parameter; one row with one json text. Sets ($5) are cut at $7 rows
-- without a word; $6: composite.
with arguments as (
    select
        string_agg(format('%I => (select %I from a)', name, name), ', ' order by position) as passed,
        string_agg(format('%I %s', name, type), ', ' order by position) as declared
    from unnest($3::text[], $4::text[]) with ordinality as t (name, type, position)
),

call as (
    select
        format('%I.%I(%s)', $1::text, $2::text, passed) as text,
        case when declared is null then 'with a as (select $1::json) '
            else format('with a as (select * from json_to_record($1::json) as r (%s)) ', declared)
        end as arguments
    from arguments
)

select arguments || case
    when $5 and $6 then format(
        'select coalesce(json_agg(row_to_json(c)), ''[]'')::text from (select * from %s limit %s) as c', text, $7::integer
    )
    when $5 then format(
        'select coalesce(json_agg(c.value), ''[]'')::text from (select %s as value limit %s) as c', text, $7::integer
    )
    when $6 then format('select row_to_json(c)::text from %s as c', text)
    else format('select to_json(c.value)::text from (select %s as value) as c', text)
end
from call
