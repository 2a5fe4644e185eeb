-- One office of the sample application, with one member of staff, whose address `notifierd demo --trial` puts in, and two
-- people in its care. Everybody here is invented. docs/getting-started.md makes use of it.

with staff as (
    insert into staffs (email, hashed_password, last_name, first_name, full_name, role, is_email_verified,
                        is_mfa_enabled, is_mfa_verified_by_user, mfa_backup_codes_used, failed_password_attempts,
                        is_locked, is_deleted, is_test_data)
    values ('{address}', '!', '試用', '花子', '試用 花子', 'manager', true, false, false, 0, 0, false, false, false)
    returning id
), office as (
    insert into offices (name, is_group, type, created_by, last_modified_by, is_deleted, is_test_data)
    select 'おためし事業所', false, 'type_B_office', id, id, false, false from staff
    returning id
), member as (
    insert into office_staffs (staff_id, office_id, is_primary, is_test_data)
    select staff.id, office.id, true, false from staff, office
), people as (
    insert into welfare_recipients (id, last_name, first_name, last_name_furigana, first_name_furigana, birth_day,
                                    gender, is_test_data)
    values (gen_random_uuid(), '見本', '一郎', 'みほん', 'いちろう', '1990-04-01', 'male', false),
           (gen_random_uuid(), '見本', '二葉', 'みほん', 'ふたば', '1992-09-01', 'female', false)
    returning id, first_name
)
insert into support_plan_cycles (welfare_recipient_id, office_id, next_renewal_deadline, is_latest_cycle, cycle_number,
                                 is_test_data)
select people.id, office.id,
       current_date + case first_name when '一郎' then -2 else 12 end, true, 1, false
from people, office;
