-- extend_model_pull: a worker says how far its pull is and keeps it. False when the pull is no longer its own, or no
-- longer wanted: then it stops. Called by workers every second or so while they pull.
create or replace function extend_model_pull(
  p_model text, p_transfer bigint, p_downloaded bigint, p_expected bigint, p_lease_seconds double precision
) returns boolean
language sql
as $$
  with extended as (
    update models
       set downloaded_bytes = p_downloaded, expected_bytes = coalesce(nullif(p_expected, 0), expected_bytes),
           progress_at = dalston_now(), transfer_ends_at = dalston_now() + make_interval(secs => p_lease_seconds)
     where id = p_model and transfer = p_transfer and transfer_worker is not null and status = 'downloading'
    returning 1)
  select exists (select from extended)
$$;
