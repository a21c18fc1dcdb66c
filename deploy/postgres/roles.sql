-- Made by `stockhook grants postgres`. Run it as a superuser in the database of Stockhook;
-- then give each role a password (\password), and run `stockhook migrate` as the owner.

-- `stockhook migrate`, `rebuild`, `retain`: owns the tables
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'stockhook_owner') THEN
        CREATE ROLE stockhook_owner LOGIN;
    END IF;
END $$;

-- `stockhook consume`: writes projections, and can neither update nor delete the log
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'stockhook_consumer') THEN
        CREATE ROLE stockhook_consumer LOGIN;
    END IF;
END $$;

-- `stockhook status`, `audit`, `doctor`: reads
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'stockhook_reader') THEN
        CREATE ROLE stockhook_reader LOGIN;
    END IF;
END $$;

-- `stockhook console`: reads, writes the states of dead letters and actions, pauses, jobs and audits
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'stockhook_console') THEN
        CREATE ROLE stockhook_console LOGIN;
    END IF;
END $$;

-- `stockhook dead`, `unhandled`, `actions`, `reconcile`, `pause`, `resume`: reads, and writes the states of dead letters, pauses, and the audit
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'stockhook_operator') THEN
        CREATE ROLE stockhook_operator LOGIN;
    END IF;
END $$;

DO $$ BEGIN
    EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO stockhook_owner, stockhook_consumer, stockhook_reader, stockhook_console, stockhook_operator', current_database());
    EXECUTE format('GRANT CREATE ON DATABASE %I TO stockhook_owner', current_database());
END $$;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO stockhook_owner, stockhook_consumer, stockhook_reader, stockhook_console, stockhook_operator;
GRANT CREATE ON SCHEMA public TO stockhook_owner;

-- `stockhook migrate` grants the rest, table by table, each time it is run.
