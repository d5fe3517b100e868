-- forget_workers: forgets workers that have been silent for longer than p_after_seconds and hold nothing any more
-- (rescue_tasks sees to that). Called by maintenance. Answers how many.
create or replace function forget_workers(p_after_seconds double precision) returns int
language plpgsql
as $$
declare
  v_forgotten int;
begin
  delete from workers w
   where w.last_seen_at < dalston_now() - make_interval(secs => p_after_seconds)
     and not exists (select from running_tasks r where r.worker_id = w.id);
  get diagnostics v_forgotten = row_count;
  return v_forgotten;
end
$$;
