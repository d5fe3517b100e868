-- advance_fair_clock: raises the fairness clock to the newest task that is running, so that a tenant that was idle is
-- filed level with the others, not before them. Called every second by maintenance.
create or replace function advance_fair_clock() returns void
language sql
as $$
  update fair_clock set virtual_time = newest.fair_key
    from (select max(fair_key) as fair_key from tasks where state = 2) newest
   where newest.fair_key > virtual_time
$$;
