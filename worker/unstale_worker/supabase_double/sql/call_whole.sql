-- The same for function $2 of schema $1 whose one argument has no name and takes the whole body, cast to type $3.
select format('select to_json(c.value)::text from (select %I.%I($1::%s) as value) as c', $1::text, $2::text, $3::text)
