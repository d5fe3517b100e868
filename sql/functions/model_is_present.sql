-- model_is_present: whether a live worker has the model on its disk.
create or replace function model_is_present(p_model text) returns boolean
language sql stable
as $$
  select exists (select from worker_models m join workers w on w.id = m.worker_id
                  where m.model = p_model and w.last_seen_at > dalston_now() - interval '1 min')
$$;
