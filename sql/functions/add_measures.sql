-- add_measures: adds what a worker has measured since it last said so, in rows of position by position. Called by workers
-- with their heartbeats; locks rows in the order of the key, and nothing else.
create or replace function add_measures(
  p_measures text[], p_labels jsonb[], p_bounds double precision[], p_counts bigint[], p_totals double precision[]
) returns void
language sql
as $$
  insert into measures (measure, labels, bound, n, total)
  select a.measure, a.labels, a.bound, a.n, a.total
    from unnest(p_measures, p_labels, p_bounds, p_counts, p_totals) as a (measure, labels, bound, n, total)
   order by a.measure, a.labels, a.bound
  on conflict (measure, labels, bound) do update
    set n = measures.n + excluded.n, total = measures.total + excluded.total
$$;
