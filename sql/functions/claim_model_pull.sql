-- claim_model_pull: gives a worker the pull that has waited longest, under a lease; no row when there is none. A pull
-- on which workers died three times has failed. Called by workers with nothing to pull.
create or replace function claim_model_pull(p_worker uuid, p_lease_seconds double precision)
returns table (id text, transfer bigint, force boolean, stored jsonb)
language plpgsql
as $$
#variable_conflict use_column
declare
  v_now timestamptz := dalston_now();
begin
  update models
     set status = 'failed', error = 'The workers that pulled it died three times.', transfer_worker = null,
         transfer_ends_at = null, updated_at = v_now
   where status = 'downloading' and transfer_attempt >= 3 and transfer_ends_at < v_now;
  return query
    with next as (
      select m.id from models m
       where m.status = 'downloading' and (m.transfer_ends_at is null or m.transfer_ends_at < v_now)
       order by m.updated_at, m.id limit 1 for no key update skip locked
    )
    update models m
       set transfer = m.transfer + 1, transfer_worker = p_worker, transfer_attempt = m.transfer_attempt + 1,
           transfer_ends_at = v_now + make_interval(secs => p_lease_seconds)
      from next where m.id = next.id
    returning m.id, m.transfer, m.force, m.stored;
end
$$;
