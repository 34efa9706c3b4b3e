-- Where to read again from, to see everything that was committed in the last so many seconds: the position, its age in
-- seconds, and as far back as one can go.
select "position"::text, age, reach from unstale.position_before(make_interval(secs => $1::float8))
