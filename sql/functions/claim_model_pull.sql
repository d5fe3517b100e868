-- claim_model_pull: gives a worker the pull that has waited longest, under a lease; no row when there is none. A worker
-- that offers only some things says which (position by position a stage, an engine of it or null, a model of that or
-- null; empty for everything) and is given no model that it would not offer, as far as stage and engine are known. A pull
-- on which workers died three times has failed. Called by workers with nothing to pull.
create or replace function claim_model_pull(
  p_worker uuid, p_lease_seconds double precision, p_stages text[], p_engines text[], p_models text[]
) returns table (id text, transfer bigint, force boolean, stored jsonb)
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
         and (p_stages = '{}'
              or exists (select from unnest(p_stages, p_engines, p_models) as offered (stage, engine, model)
                          where coalesce(m.stage = offered.stage, true) and coalesce(m.engine = offered.engine, true)
                            and coalesce(m.id = offered.model, true)))
       order by m.updated_at, m.id limit 1 for no key update skip locked
    )
    update models m
       set transfer = m.transfer + 1, transfer_worker = p_worker, transfer_attempt = m.transfer_attempt + 1,
           transfer_ends_at = v_now + make_interval(secs => p_lease_seconds)
      from next where m.id = next.id
    returning m.id, m.transfer, m.force, m.stored;
end
$$;
