/* The command line: text from a model to standard output. */
#define _POSIX_C_SOURCE 200809L
#define _DEFAULT_SOURCE     /* getrusage */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#if defined(__unix__) || defined(__APPLE__)
#include <sys/resource.h>
#endif

#include "crystal.h"
#include "failure.h"
#include "file.h"
#include "options.h"

#if defined(CRYSTAL_EMBEDDED)
/* Of model_data.c, which `crystalline.export.runtime.c_source` writes. */
const void *crystal_model_data(size_t *bytes);
#endif

static double seconds(void) {
    struct timespec now;
    timespec_get(&now, TIME_UTC);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Most memory that was resident at a time; 0 where the system does not tell. */
static double resident_mib(void) {
    FILE *status = fopen("/proc/self/status", "r");     /* rusage remembers the parent's there */
    char line[256];
    double kib = 0.0;
    while (status != NULL && kib == 0.0 && fgets(line, sizeof line, status) != NULL)
        if (strncmp(line, "VmHWM:", 6) == 0)
            kib = strtod(line + 6, NULL);
    if (status != NULL)
        fclose(status);
    if (kib > 0.0)
        return kib / 1024.0;
#if defined(__unix__) || defined(__APPLE__)
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
#if defined(__APPLE__)
    return (double)usage.ru_maxrss / 1048576.0;     /* bytes */
#else
    return (double)usage.ru_maxrss / 1024.0;        /* KiB */
#endif
#else
    return 0.0;
#endif
}

static Crystal *open_model(Options *options, char *error) {
    const unsigned flags = options->published ? CRYSTAL_PUBLISHED : 0;
#if defined(CRYSTAL_EMBEDDED)
    if (options->model == NULL) {
        options->model = "the model of this program";
        size_t bytes;
        const void *data = crystal_model_data(&bytes);
        return crystal_open_memory(data, bytes, flags, error);
    }
#endif
    return crystal_open(options->model, flags, error);
}

/* Numbers between blanks or commas; -1 for anything else. `ids` has room for one a character. */
static int64_t read_ids(const char *text, int32_t *ids, char *error) {
    int64_t count = 0;
    while (*text != '\0') {
        if (*text == ' ' || *text == ',' || *text == '\n') {
            text++;
            continue;
        }
        char *end;
        const long value = strtol(text, &end, 10);
        if (end == text || value < 0 || value > INT32_MAX) {
            cr_fail(error, "the prompt %.40s: with --ids it must be ids", text);
            return -1;
        }
        ids[count++] = (int32_t)value;
        text = end;
    }
    return count;
}

/* Ids of a text that ends with a zero, or of a document's start where it is empty; -1 on failure. */
static int64_t read_prompt(
    const Crystal *model, const Options *options, const char *text, size_t bytes, int32_t *ids,
    char *error) {
    const int32_t eot_id = crystal_info(model).eot_id;
    int64_t count = 0;
    if (options->ids)
        count = read_ids(text, ids, error);
    else if (bytes > 0 || options->tokenize)
        count = crystal_tokenize(model, text, bytes, ids, error);
    if (count != 0 || options->tokenize)
        return count;
    if (eot_id < 0) {
        cr_fail(error, "give a prompt, the model has no token that starts documents");
        return -1;
    }
    ids[0] = eot_id;
    return 1;
}

/* The prompt as it stands in the options or in a file, closed by a zero. */
static char *load_prompt(const Options *options, size_t *bytes, char *error) {
    FileBytes file = {(const uint8_t *)options->prompt, strlen(options->prompt), false, false};
    char inner[CRYSTAL_ERROR_BYTES];
    if (options->prompt_file != NULL && !cr_file_open(&file, options->prompt_file, inner)) {
        cr_fail(error, "the prompt %.100s: %.150s", options->prompt_file, inner);
        return NULL;
    }
    char *text = cr_allocate(file.bytes + 1, 1);
    if (text == NULL)
        cr_fail(error, "no memory for the prompt");
    else if (file.bytes > 0)
        memcpy(text, file.data, file.bytes);
    *bytes = file.bytes;
    cr_file_close(&file);
    return text;
}

/* A token and the logits it was drawn from, as the options want them. */
static void write_step(
    const Crystal *model, const Options *options, int32_t id, const float *logits) {
    size_t bytes;
    if (options->logits) {
        printf("%ld", (long)id);
        for (size_t i = 0; i < crystal_info(model).vocab_size; i++)
            printf(" %.9g", (double)logits[i]);
        putchar('\n');
    } else if (options->ids) {
        printf("%ld ", (long)id);
    } else {
        const char *text = crystal_token(model, id, &bytes);
        fwrite(text, 1, bytes, stdout);
    }
    fflush(stdout);
}

static bool generate(
    const Crystal *model, const Options *options, CrystalSession *session, char *error) {
    const CrystalInfo info = crystal_info(model);
    CrystalSampler sampler;
    crystal_sampler_start(&sampler, options->seed);
    sampler.temperature = options->temperature;
    sampler.top_k = options->top_k;
    sampler.top_p = options->top_p;
    sampler.min_p = options->min_p;
    const double began = seconds();
    double first = began;
    size_t count = 0;
    bool good = true;
    while (good && count < options->tokens) {
        const float *logits = crystal_session_step(session);
        const int32_t id = crystal_sample(&sampler, logits, info.vocab_size);
        if (id < 0)
            good = cr_fail(error, "no memory to draw a token");
        else if (id == info.eot_id && !options->no_stop)
            break;
        else
            good = crystal_session_append(session, &id, 1, error);
        if (good && !options->bench)
            write_step(model, options, id, logits);
        if (count++ == 0)
            first = seconds();
    }
    const double all = seconds() - began;
    if (!options->bench && !options->logits)
        putchar('\n');
    if (options->bench && count > 1)
        fprintf(stderr,
                "%zu tokens, %.1f tokens/s; the first after %.2f ms; %s, %u threads, "
                "resident %.1f MiB\n",
                count, (double)(count - 1) / (all - (first - began)), 1e3 * (first - began),
                options->kernels ? options->kernels : info.kernels, options->threads,
                resident_mib());
    crystal_sampler_free(&sampler);
    return good;
}

static void write_info(const Crystal *model) {
    const CrystalInfo info = crystal_info(model);
    printf("version %d, %zu tokens, context %zu, width %zu, %zu blocks, %zu heads, %zu neurons, "
           "%s tokenizer, %s\n",
           info.version, info.vocab_size, info.context_length, info.d_model, info.num_layers,
           info.num_heads, info.neurons, info.has_tokenizer ? "with" : "without", info.kernels);
}

/* Writes what continues the prompt. */
static bool continue_prompt(
    const Crystal *model, const Options *options, const char *text, size_t bytes,
    const int32_t *ids, size_t count, char *error) {
    CrystalSession *session =
        crystal_session_new(model, options->threads, options->kernels, error);
    const bool good = session != NULL && crystal_session_append(session, ids, count, error);
    if (good && !options->ids && !options->logits && !options->bench)
        fwrite(text, 1, bytes, stdout);
    const bool done = good && generate(model, options, session, error);
    crystal_session_free(session);
    return done;
}

static bool use(const Crystal *model, const Options *options, char *error) {
    if (options->info) {
        write_info(model);
        return true;
    }
    size_t bytes = 0;
    char *text = load_prompt(options, &bytes, error);
    int32_t *ids = text == NULL ? NULL : cr_allocate(bytes + 1, sizeof *ids);
    if (text != NULL && ids == NULL)
        cr_fail(error, "no memory for the prompt");
    const int64_t count =
        ids == NULL ? -1 : read_prompt(model, options, text, bytes, ids, error);
    bool good = count >= 0;
    if (good && options->tokenize) {
        for (int64_t i = 0; i < count; i++)
            printf("%ld ", (long)ids[i]);
        putchar('\n');
    } else if (good) {
        good = continue_prompt(model, options, text, bytes, ids, (size_t)count, error);
    }
    cr_release(ids);
    cr_release(text);
    return good;
}

int main(int count, char **arguments) {
    char error[CRYSTAL_ERROR_BYTES] = "";
    Options options;
    if (!cr_options_read(&options, count, arguments, error)) {
        fprintf(stderr, "error: %s\n", error);
        return 1;
    }
#if !defined(CRYSTAL_EMBEDDED)
    if (options.model == NULL && !options.help) {
        fprintf(stderr, "error: -m: give a model file; --help lists all options\n");
        return 1;
    }
#endif
    if (options.help) {
        fputs(cr_usage, stdout);
        return 0;
    }
    Crystal *model = open_model(&options, error);
    const bool good = model != NULL && use(model, &options, error);
    if (!good)
        fprintf(stderr, "error: %s: %s\n", options.model, error);
    crystal_close(model);
    return good ? 0 : 1;
}
