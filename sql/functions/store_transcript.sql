-- store_transcript: keeps a job's transcript and its counts. p_transcript is [Transcript, TranscriptStats] or null.
-- Called by complete_tasks; a job that is merged again replaces what it had.
create or replace function store_transcript(p_job uuid, p_transcript jsonb, p_now timestamptz) returns void
language plpgsql
as $$
declare
  v_body jsonb := p_transcript->0;
  v_stats jsonb := p_transcript->1;
begin
  if jsonb_typeof(p_transcript) is distinct from 'array' then
    return;
  end if;
  insert into transcripts (job_id, body, text, language, created_at)
  values (p_job, v_body, v_body->>'text', v_body->'metadata'->>'language', p_now)
  on conflict (job_id) do update
    set body = excluded.body, text = excluded.text, language = excluded.language, created_at = excluded.created_at;
  update jobs
     set result_language_code = v_stats->>'language_code',
         result_word_count = (v_stats->>'word_count')::int,
         result_segment_count = (v_stats->>'segment_count')::int,
         result_speaker_count = (v_stats->>'speaker_count')::int,
         result_character_count = (v_stats->>'character_count')::int
   where id = p_job;
end
$$;
