-- capability_is_served: whether a live worker that takes new tasks offers it. Called by those who see to tasks that
-- nobody can run.
create or replace function capability_is_served(p_capability int) returns boolean
language sql stable
as $$
  select exists (select from worker_capabilities c join workers w on w.id = c.worker_id
                  where c.capability_id = p_capability and not w.draining
                    and w.last_seen_at > dalston_now() - interval '1 min')
$$;
