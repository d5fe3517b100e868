-- remove_model: has every worker delete the model's files, ends a pull of it, and forgets what the object store has;
-- with p_purge also what users and hub said of it. Answers missing, used (unfinished jobs need it) or removed. A worker
-- that is away keeps its files. Called by the API, which deletes the objects.
create or replace function remove_model(p_model text, p_purge boolean) returns text
language plpgsql
as $$
declare
  v_now timestamptz := dalston_now();
  v_present boolean := model_is_present(p_model);
begin
  perform from models where id = p_model for no key update;
  if not found and not v_present then
    return 'missing';
  end if;
  if exists (select from capabilities k join tasks t on t.capability_id = k.id
              where k.model = p_model and t.state = 0) then
    return 'used';
  end if;
  if p_purge and not v_present then
    delete from models where id = p_model;
    return 'removed';
  end if;
  insert into models (id, removing, created_at, updated_at) values (p_model, v_present, v_now, v_now)
  on conflict (id) do update
    set removing = v_present, status = 'not_downloaded', force = false, error = null, downloaded_bytes = null,
        expected_bytes = null, progress_at = null, downloaded_at = null, stored = null, transfer_worker = null,
        transfer_ends_at = null, updated_at = v_now,
        overrides = case when p_purge then '{}' else models.overrides end,
        hub = case when p_purge then '{}' else models.hub end;
  return 'removed';
end
$$;
