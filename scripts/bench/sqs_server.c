/* A bare SQS, for measuring and trying senders: SendMessageBatch and GetQueueAttributes over HTTP/1.1 and AWS JSON 1.0.
 *
 *     cc -O2 -o sqs_server sqs_server.c -lssl -lcrypto && ./sqs_server --port 0
 *
 * It keeps no messages and checks no signatures: one thread, epoll, and as little work a message as right MD5s allow, so
 * that the sender is what is measured. What SQS refuses, it refuses: more than 10 entries, Ids that aren't distinct,
 * batches that are too long, characters that aren't allowed. A FIFO queue doesn't leave out duplicates here.
 *
 *     --port N --host A      where to listen; 0 takes any port. The port is printed when the server is ready
 *     --cert F --key F       PEM files; with them it speaks TLS alone
 *     --latency-ms A[-B]     before each answer; evenly random in a range
 *     --max-message-size N   the queue's MaximumMessageSize
 *     --throttle P           answer so many of the batches with 403 RequestThrottled
 *     --fail P               so many of the entries fail with InternalError
 *     --reset P              reset the connection instead of answering so many of the batches; nothing is accepted
 *     --lose P               accept so many of the batches, and close the connection instead of answering
 *     --seed N               of what is random
 *     --record F             append each accepted body as a line: 'A' when the answer was written, 'L' when it was lost
 *
 * GET /_stats answers with counts and the CPU seconds that the server took. SIGTERM ends it. Linux, little-endian.
 */

#define _GNU_SOURCE
#define OPENSSL_SUPPRESS_DEPRECATED /* MD5_* without the EVP layer */

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/md5.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "eight bytes at a time are looked at as little-endian"
#endif

enum {
    ENTRIES = 10,
    ATTRIBUTES = 10,
    ID_LENGTH = 80,
    BATCH_BYTES = 1024 * 1024,
    HEADER_BYTES = 64 * 1024,
    REQUEST_BYTES = 16 * 1024 * 1024, /* with escapes a body is up to 6 times as long as its message */
    SLACK = 16,                       /* strings are looked at and copied 8 bytes at a time */
    DEPTH = 64,
    EVENTS = 512,
    ANSWER_BYTES = 32 * 1024,
    RECORD_BYTES = 1 << 20,
};

/* What was asked for on the command line */

static struct {
    const char *host, *cert, *key, *record;
    int port;
    double latency_from, latency_to, throttle, fail, reset, lose;
    uint64_t seed;
    size_t max_message_size;
} options = {.host = "127.0.0.1", .seed = 1, .max_message_size = BATCH_BYTES};

static struct {
    uint64_t connections, open, requests, batches, accepted, rejected, throttled, failed, resets;
    uint64_t lost_answers, lost_messages, errors, bytes;
} stats;

/* A message is accepted, refused for what it is, or failed at random. */
typedef enum { ACCEPTED, REJECTED, FAILED } Fate;
typedef enum { KEEP, CLOSE, RESET, LOSE } Ending;
typedef enum { HEADERS, BODY, CHUNKS } Stage;

typedef struct {
    char *data;
    size_t length, capacity;
} Buffer;

typedef struct Connection {
    int fd;
    SSL *ssl;
    bool closed, waiting, answering, handshaken, wants_write;
    uint32_t events;

    Stage stage;
    Buffer in;
    size_t body, body_length;             /* of the request, in `in` */
    size_t chunk_from, chunk_to;          /* chunks are joined in place: what is read next, where it goes */
    char target[64];
    char method;
    bool is_stats, keep_alive, continues;

    Buffer out;
    size_t written;
    Ending ending;
    int messages;                         /* that this answer acknowledges */
    Buffer record;
    size_t marks[ENTRIES];                /* where in `record` the markers are */

    uint64_t due;
    size_t timer;                         /* its place in the timer queue, from 1 on */
    struct Connection *next;
} Connection;

static int poller;
static SSL_CTX *tls;
static volatile sig_atomic_t ended;
static Connection *graveyard; /* closed, but maybe still named by events at hand */

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void *grown(void *memory, size_t size) {
    memory = realloc(memory, size);
    if (memory == NULL) die("realloc");
    return memory;
}

static void reserve(Buffer *buffer, size_t more) {
    if (buffer->capacity - buffer->length >= more) return;
    buffer->capacity = (buffer->length + more) * 2;
    buffer->data = grown(buffer->data, buffer->capacity);
}

static void put(Buffer *buffer, const void *data, size_t length) {
    reserve(buffer, length);
    memcpy(buffer->data + buffer->length, data, length);
    buffer->length += length;
}

#define PUT(buffer, literal) put(buffer, literal, sizeof(literal) - 1)

static void put_text(Buffer *buffer, const char *text) { put(buffer, text, strlen(text)); }

__attribute__((format(printf, 2, 3))) static void put_format(Buffer *buffer, const char *format, ...) {
    char text[2048];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    put(buffer, text, length < (int)sizeof text ? (size_t)length : sizeof text - 1);
}

static void put_hex(Buffer *buffer, const unsigned char *bytes, size_t count) {
    static const char digits[] = "0123456789abcdef";
    reserve(buffer, 2 * count);
    char *to = buffer->data + buffer->length;
    for (size_t i = 0; i < count; i++) {
        *to++ = digits[bytes[i] >> 4];
        *to++ = digits[bytes[i] & 15];
    }
    buffer->length += 2 * count;
}

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static uint64_t random_state;

static uint64_t random_bits(void) { /* splitmix64 */
    uint64_t z = (random_state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static double random_unit(void) { return (double)(random_bits() >> 11) * 0x1p-53; }

static bool happens(double probability) { return probability > 0 && random_unit() < probability; }

static void put_uuid(Buffer *buffer) {
    uint64_t bits[2] = {random_bits(), random_bits()};
    unsigned char bytes[16];
    memcpy(bytes, bits, 16);
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    static const int groups[] = {4, 2, 2, 2, 6};
    for (int i = 0, at = 0; i < 5; at += groups[i++]) {
        if (i) PUT(buffer, "-");
        put_hex(buffer, bytes + at, (size_t)groups[i]);
    }
}

/* JSON */

typedef struct {
    const char *data;
    size_t length;
    bool odd; /* has characters that SQS refuses */
} Text;

typedef struct {
    const char *at, *end;
    char *to; /* where the next string is unescaped to */
} Json;

static Buffer strings;

static uint64_t bytes_that(uint64_t eight, unsigned char byte) {
    uint64_t other = eight ^ (0x0101010101010101u * byte);
    return (other - 0x0101010101010101u) & ~other & 0x8080808080808080u;
}

static bool hex4(const char *at, uint32_t *value) {
    uint32_t v = 0;
    for (int i = 0; i < 4; i++) {
        char c = at[i];
        if (c >= '0' && c <= '9') v = v << 4 | (uint32_t)(c - '0');
        else if ((c | 32) >= 'a' && (c | 32) <= 'f') v = v << 4 | (uint32_t)((c | 32) - 'a' + 10);
        else return false;
    }
    *value = v;
    return true;
}

static char *utf8(char *to, uint32_t c) {
    if (c < 0x80) {
        *to++ = (char)c;
    } else if (c < 0x800) {
        *to++ = (char)(0xC0 | c >> 6);
        *to++ = (char)(0x80 | (c & 63));
    } else if (c < 0x10000) {
        *to++ = (char)(0xE0 | c >> 12);
        *to++ = (char)(0x80 | (c >> 6 & 63));
        *to++ = (char)(0x80 | (c & 63));
    } else {
        *to++ = (char)(0xF0 | c >> 18);
        *to++ = (char)(0x80 | (c >> 12 & 63));
        *to++ = (char)(0x80 | (c >> 6 & 63));
        *to++ = (char)(0x80 | (c & 63));
    }
    return to;
}

/* Whether it is UTF-8 of #x9 #xA #xD #x20-#xD7FF #xE000-#xFFFD #x10000-#x10FFFF */
static bool is_allowed(const unsigned char *at, size_t length) {
    const unsigned char *end = at + length;
    while (at < end) {
        uint32_t c = *at++;
        int more = c < 0x80 ? 0 : c >= 0xC2 && c < 0xE0 ? 1 : c >= 0xE0 && c < 0xF0 ? 2 : c >= 0xF0 && c < 0xF5 ? 3 : -1;
        if (more < 0 || end - at < more) return false;
        static const uint32_t masks[] = {0x7F, 0x1F, 0x0F, 0x07}, least[] = {0, 0x80, 0x800, 0x10000};
        c &= masks[more];
        for (int i = 0; i < more; i++, at++) {
            if ((*at & 0xC0) != 0x80) return false;
            c = c << 6 | (*at & 63);
        }
        if (c < least[more] || c > 0x10FFFF || (c >= 0xD800 && c < 0xE000) || c == 0xFFFE || c == 0xFFFF) return false;
        if (c < 0x20 && c != 9 && c != 10 && c != 13) return false;
    }
    return true;
}

/* Unescapes the string whose opening quote was read. */
static bool json_string(Json *json, Text *text) {
    const char *at = json->at;
    char *to = json->to;
    uint64_t high = 0;
    text->data = to;
    for (;;) {
        uint64_t eight;
        memcpy(&eight, at, 8);
        memcpy(to, &eight, 8);
        uint64_t low = (eight - 0x2020202020202020u) & ~eight & 0x8080808080808080u;
        uint64_t special = bytes_that(eight, '"') | bytes_that(eight, '\\') | low;
        if (special == 0) {
            high |= eight;
            at += 8, to += 8;
            if (at >= json->end) return false;
            continue;
        }
        int plain = __builtin_ctzll(special) >> 3;
        if (plain) high |= eight << (64 - 8 * plain);
        at += plain, to += plain;
        if (at >= json->end) return false;
        if (*at == '"') break;
        if (*at != '\\' || json->end - at < 2) return false;
        at += 2;
        switch (at[-1]) {
        case '"': *to++ = '"'; break;
        case '\\': *to++ = '\\'; break;
        case '/': *to++ = '/'; break;
        case 'n': *to++ = '\n'; break;
        case 't': *to++ = '\t'; break;
        case 'r': *to++ = '\r'; break;
        case 'b': *to++ = '\b', high = ~0ull; break;
        case 'f': *to++ = '\f', high = ~0ull; break;
        case 'u': {
            uint32_t c, second;
            if (json->end - at < 4 || !hex4(at, &c)) return false;
            at += 4;
            if (c >= 0xD800 && c < 0xDC00 && json->end - at >= 6 && at[0] == '\\' && at[1] == 'u' &&
                hex4(at + 2, &second) && second >= 0xDC00 && second < 0xE000) {
                c = 0x10000 + ((c - 0xD800) << 10) + (second - 0xDC00);
                at += 6;
            }
            if (c < 0x20 || c >= 0x80) high = ~0ull; /* a surrogate alone is then refused, as UTF-8 */
            to = utf8(to, c);
            break;
        }
        default: return false;
        }
    }
    text->length = (size_t)(to - text->data);
    text->odd = (high & 0x8080808080808080u) && !is_allowed((const unsigned char *)text->data, text->length);
    json->at = at + 1;
    json->to = to;
    return true;
}

static char json_next(Json *json) { /* the next character that isn't white space, which isn't consumed */
    while (json->at < json->end && (*json->at == ' ' || *json->at == '\n' || *json->at == '\r' || *json->at == '\t'))
        json->at++;
    return json->at < json->end ? *json->at : 0;
}

static bool json_take(Json *json, char c) {
    if (json_next(json) != c) return false;
    json->at++;
    return true;
}

/* Steps through an object: reads the next key and its colon. Says false at its end, and where `good` is false. */
static bool json_key(Json *json, bool *first, Text *key, bool *good) {
    if (json_take(json, '}') && *good) return false;
    *good = *good && (*first || json_take(json, ',')) && json_take(json, '"') && json_string(json, key) &&
            json_take(json, ':');
    *first = false;
    return *good;
}

static bool json_item(Json *json, bool *first, bool *good) {
    if (json_take(json, ']') && *good) return false;
    *good = *good && (*first || json_take(json, ','));
    *first = false;
    return *good;
}

static bool json_skip(Json *json, int depth) {
    Text text;
    bool first = true, good = true;
    if (depth > DEPTH) return false;
    switch (json_next(json)) {
    case 0: return false;
    case '"': json->at++; return json_string(json, &text);
    case '{':
        json->at++;
        while (json_key(json, &first, &text, &good)) good = json_skip(json, depth + 1);
        return good;
    case '[':
        json->at++;
        while (json_item(json, &first, &good)) good = json_skip(json, depth + 1);
        return good;
    default: {
        const char *begun = json->at;
        while (json->at < json->end && (strchr("+-.", *json->at) || (unsigned char)((*json->at | 32) - 'a') < 26 ||
                                        (unsigned char)(*json->at - '0') < 10) && *json->at)
            json->at++;
        return json->at > begun;
    }
    }
}

static bool json_text(Json *json, Text *text) { return json_take(json, '"') && json_string(json, text); }

static bool is(const Text *text, const char *literal) {
    return text->length == strlen(literal) && memcmp(text->data, literal, text->length) == 0;
}

/* Message attributes */

typedef struct {
    Text name, type, value;
    bool binary;
} Attribute;

typedef struct {
    int count;
    size_t bytes;
    unsigned char md5[16];
} Attributes;

static int by_name(const void *one, const void *other) {
    const Text *a = &((const Attribute *)one)->name, *b = &((const Attribute *)other)->name;
    int order = memcmp(a->data, b->data, a->length < b->length ? a->length : b->length);
    return order ? order : (a->length > b->length) - (a->length < b->length);
}

static bool base64_decode(Text *text, char *to) {
    text->odd = false;
    if (text->length % 4) return false;
    if (text->length == 0) return true;
    int length = EVP_DecodeBlock((unsigned char *)to, (const unsigned char *)text->data, (int)text->length);
    if (length < 0) return false;
    size_t padding = (size_t)(text->data[text->length - 1] == '=') + (size_t)(text->data[text->length - 2] == '=');
    text->data = to;
    text->length = (size_t)length - padding;
    return true;
}

static void md5_part(MD5_CTX *md5, const Text *text) {
    uint32_t length = htonl((uint32_t)text->length);
    MD5_Update(md5, &length, 4);
    MD5_Update(md5, text->data, text->length);
}

/* Reads a map of attributes and computes its MD5: sorted by name, each part after its length, the kind as a byte. */
static bool json_attributes(Json *json, Attributes *attributes) {
    Attribute all[ATTRIBUTES];
    bool first = true, good = true;
    int count = 0;
    Text key;
    attributes->count = 0;
    attributes->bytes = 0;
    if (json_next(json) == 'n') return json_skip(json, 0);
    if (!json_take(json, '{')) return false;
    while (json_key(json, &first, &key, &good)) {
        bool first_field = true;
        if (count == ATTRIBUTES || !json_take(json, '{')) return false;
        Attribute *attribute = &all[count++];
        *attribute = (Attribute){.name = key};
        while (json_key(json, &first_field, &key, &good)) {
            if (is(&key, "DataType")) good = json_text(json, &attribute->type);
            else if (is(&key, "StringValue")) good = json_text(json, &attribute->value);
            else if (is(&key, "BinaryValue")) {
                good = json_text(json, &attribute->value) && base64_decode(&attribute->value, json->to);
                json->to += attribute->value.length;
                attribute->binary = true;
            } else good = json_skip(json, 0);
        }
        if (good && attribute->type.data == NULL) return false;
    }
    if (!good) return false;
    qsort(all, (size_t)count, sizeof *all, by_name);
    MD5_CTX md5;
    MD5_Init(&md5);
    for (int i = 0; i < count; i++) {
        unsigned char kind = all[i].binary ? 2 : 1;
        md5_part(&md5, &all[i].name);
        md5_part(&md5, &all[i].type);
        MD5_Update(&md5, &kind, 1);
        md5_part(&md5, &all[i].value);
        attributes->bytes += all[i].name.length + all[i].type.length + all[i].value.length;
    }
    MD5_Final(attributes->md5, &md5);
    attributes->count = count;
    return true;
}

/* The MD5s of a batch, computed side by side: one alone is a chain of steps that leaves most of a core idle */

enum { LANES = 16, MD5_BLOCK = 64 };
typedef uint32_t Lanes __attribute__((vector_size(4 * LANES)));

#define F(b, c, d) ((d) ^ ((b) & ((c) ^ (d))))
#define G(b, c, d) ((c) ^ ((d) & ((b) ^ (c))))
#define H(b, c, d) ((b) ^ (c) ^ (d))
#define I(b, c, d) ((c) ^ ((b) | ~(d)))
#define STEPS(function, round, word)                                                              \
    _Pragma("GCC unroll 16") for (int i = 0; i < 16; i++) {                                       \
        const int shift = shifts[round][i & 3];                                                   \
        Lanes sum = a + function(b, c, d) + words[(word) & 15] + constants[16 * (round) + i];     \
        a = d, d = c, c = b, b += sum << shift | sum >> (32 - shift);                             \
    }

#ifdef __x86_64__
__attribute__((target_clones("avx512f", "avx2", "default")))
#endif
static void md5_block(Lanes state[4], const Lanes words[16], const Lanes *taken) {
    static const int shifts[4][4] = {{7, 12, 17, 22}, {5, 9, 14, 20}, {4, 11, 16, 23}, {6, 10, 15, 21}};
    static const uint32_t constants[64] = {
        0xd76aa478, 0xe8c7b756, 0x242070db, 0xc1bdceee, 0xf57c0faf, 0x4787c62a, 0xa8304613, 0xfd469501,
        0x698098d8, 0x8b44f7af, 0xffff5bb1, 0x895cd7be, 0x6b901122, 0xfd987193, 0xa679438e, 0x49b40821,
        0xf61e2562, 0xc040b340, 0x265e5a51, 0xe9b6c7aa, 0xd62f105d, 0x02441453, 0xd8a1e681, 0xe7d3fbc8,
        0x21e1cde6, 0xc33707d6, 0xf4d50d87, 0x455a14ed, 0xa9e3e905, 0xfcefa3f8, 0x676f02d9, 0x8d2a4c8a,
        0xfffa3942, 0x8771f681, 0x6d9d6122, 0xfde5380c, 0xa4beea44, 0x4bdecfa9, 0xf6bb4b60, 0xbebfbc70,
        0x289b7ec6, 0xeaa127fa, 0xd4ef3085, 0x04881d05, 0xd9d4d039, 0xe6db99e5, 0x1fa27cf8, 0xc4ac5665,
        0xf4292244, 0x432aff97, 0xab9423a7, 0xfc93a039, 0x655b59c3, 0x8f0ccc92, 0xffeff47d, 0x85845dd1,
        0x6fa87e4f, 0xfe2ce6e0, 0xa3014314, 0x4e0811a1, 0xf7537e82, 0xbd3af235, 0x2ad7d2bb, 0xeb86d391,
    };
    Lanes a = state[0], b = state[1], c = state[2], d = state[3];
    STEPS(F, 0, i)
    STEPS(G, 1, 5 * i + 1)
    STEPS(H, 2, 3 * i + 5)
    STEPS(I, 3, 7 * i)
    state[0] += a & *taken;
    state[1] += b & *taken;
    state[2] += c & *taken;
    state[3] += d & *taken;
}

/* The MD5s of at most as many texts as there are lanes. */
static void md5_all(const Text *const *texts, int count, unsigned char (*digests)[16]) {
    static unsigned char tails[LANES][2 * MD5_BLOCK]; /* what is left of each text, and its padding */
    static const uint32_t initial[4] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476};
    size_t whole[LANES], blocks[LANES], most = 0;
    Lanes state[4], words[16] = {{0}}, taken;
    for (int i = 0; i < count; i++) {
        size_t length = texts[i]->length, left = length % MD5_BLOCK;
        uint64_t bits = (uint64_t)length * 8;
        whole[i] = length / MD5_BLOCK;
        blocks[i] = whole[i] + (left + 9 > MD5_BLOCK ? 2 : 1);
        if (blocks[i] > most) most = blocks[i];
        memset(tails[i], 0, sizeof tails[i]);
        memcpy(tails[i], texts[i]->data + length - left, left);
        tails[i][left] = 0x80;
        memcpy(tails[i] + (blocks[i] - whole[i]) * MD5_BLOCK - 8, &bits, 8);
    }
    for (int k = 0; k < 4; k++) state[k] = (Lanes){0} + initial[k];
    for (size_t block = 0; block < most; block++) {
        for (int i = 0; i < LANES; i++) {
            taken[i] = i < count && block < blocks[i] ? ~0u : 0;
            if (!taken[i]) continue;
            const void *from = block < whole[i] ? (const unsigned char *)texts[i]->data + block * MD5_BLOCK
                                                : tails[i] + (block - whole[i]) * MD5_BLOCK;
            uint32_t own[16];
            memcpy(own, from, sizeof own);
            for (int word = 0; word < 16; word++) words[word][i] = own[word];
        }
        md5_block(state, words, &taken);
    }
    for (int i = 0; i < count; i++)
        for (int k = 0; k < 4; k++) {
            uint32_t part = state[k][i];
            memcpy(digests[i] + 4 * k, &part, 4);
        }
}

/* Requests */

typedef struct {
    Text id, body, group;
    Attributes attributes, system_attributes;
} Entry;

typedef struct {
    Text queue_url;
    Entry entries[ENTRIES];
    int count; /* may be more than there is room for */
} Batch;

static bool json_entry(Json *json, Entry *entry) {
    bool first = true, good = true;
    Text key;
    *entry = (Entry){0};
    if (!json_take(json, '{')) return false;
    while (json_key(json, &first, &key, &good)) {
        if (is(&key, "Id")) good = json_text(json, &entry->id);
        else if (is(&key, "MessageBody")) good = json_text(json, &entry->body);
        else if (is(&key, "MessageGroupId")) good = json_text(json, &entry->group);
        else if (is(&key, "MessageAttributes")) good = json_attributes(json, &entry->attributes);
        else if (is(&key, "MessageSystemAttributes")) good = json_attributes(json, &entry->system_attributes);
        else good = json_skip(json, 0);
    }
    return good;
}

static bool json_batch(const char *body, size_t length, Batch *batch) {
    strings.length = 0;
    reserve(&strings, 2 * length + SLACK); /* base64 is decoded to there too */
    Json json = {body, body + length, strings.data};
    bool first = true, good = true;
    Text key;
    batch->count = 0;
    batch->queue_url = (Text){0};
    if (!json_take(&json, '{')) return false;
    while (json_key(&json, &first, &key, &good)) {
        if (is(&key, "QueueUrl")) {
            good = json_text(&json, &batch->queue_url);
        } else if (is(&key, "Entries")) {
            bool first_entry = true;
            batch->count = 0;
            good = json_take(&json, '[');
            while (good && json_item(&json, &first_entry, &good)) {
                good = batch->count < ENTRIES ? json_entry(&json, &batch->entries[batch->count]) : json_skip(&json, 0);
                batch->count++;
            }
        } else {
            good = json_skip(&json, 0);
        }
    }
    return good && json_next(&json) == 0;
}

static bool is_fifo(const Text *url) {
    return url->length > 5 && memcmp(url->data + url->length - 5, ".fifo", 5) == 0;
}

/* The HTTP answer */

static Buffer answer;

static const char *http_date(void) {
    static char date[40];
    static time_t written;
    time_t now = time(NULL);
    if (now != written) {
        struct tm parts;
        written = now;
        strftime(date, sizeof date, "%a, %d %b %Y %H:%M:%S GMT", gmtime_r(&now, &parts));
    }
    return date;
}

/* Puts the head before what is in `answer`, and both into the connection's buffer. */
static void respond(Connection *connection, const char *status, const char *query_error) {
    Buffer *out = &connection->out;
    out->length = 0;
    PUT(out, "HTTP/1.1 ");
    put_text(out, status);
    PUT(out, "\r\nx-amzn-RequestId: ");
    put_uuid(out);
    PUT(out, "\r\nDate: ");
    put_text(out, http_date());
    if (query_error) {
        PUT(out, "\r\nx-amzn-query-error: ");
        put_text(out, query_error);
    }
    if (!connection->keep_alive) PUT(out, "\r\nConnection: close");
    PUT(out, "\r\nContent-Type: application/x-amz-json-1.0\r\nContent-Length: ");
    char digits[24];
    int at = sizeof digits;
    size_t length = answer.length;
    do digits[--at] = (char)('0' + length % 10);
    while (length /= 10);
    put(out, digits + at, sizeof digits - (size_t)at);
    PUT(out, "\r\n\r\n");
    put(out, answer.data, answer.length);
}

/* An error in the JSON protocol: its type, and for what query-protocol clients know by another name, that name. */
static void refuse(Connection *connection, const char *status, const char *type, const char *code, const char *text) {
    char query_error[128];
    answer.length = 0;
    put_format(&answer, "{\"__type\":\"com.amazonaws.sqs#%s\",\"message\":\"%s\"}", type, text);
    snprintf(query_error, sizeof query_error, "%s;Sender", code);
    respond(connection, status, query_error);
}

static void bad_request(Connection *connection, const char *type, const char *code, const char *text) {
    stats.errors++;
    refuse(connection, "400 Bad Request", type, code, text);
}

static bool is_id(const Text *id) {
    if (id->length == 0 || id->length > ID_LENGTH) return false;
    for (size_t i = 0; i < id->length; i++) {
        char c = id->data[i];
        if (!((unsigned char)((c | 32) - 'a') < 26 || (unsigned char)(c - '0') < 10 || c == '-' || c == '_')) return false;
    }
    return true;
}

/* Whether SQS takes the request as a whole; if not, its answer is ready. */
static bool is_batch(Connection *connection, const Batch *batch) {
    static const char prefix[] = "AWS.SimpleQueueService.";
    char code[96];
    const char *type = NULL, *text = NULL;
    bool missing = false;
    size_t bytes = 0;
    if (batch->count == 0) type = "EmptyBatchRequest", text = "There should be at least one entry in the request.";
    else if (batch->count > ENTRIES) type = "TooManyEntriesInBatchRequest", text = "Maximum number of entries is 10.";
    for (int i = 0; type == NULL && i < batch->count; i++) {
        const Entry *entry = &batch->entries[i];
        bytes += entry->body.length + entry->attributes.bytes;
        if (!is_id(&entry->id)) type = "InvalidBatchEntryId", text = "Ids are 1 to 80 of A-Z a-z 0-9 - _.";
        else if (entry->body.data == NULL) missing = true;
        else if (entry->group.length == 0 && is_fifo(&batch->queue_url)) missing = true;
        for (int j = 0; j < i; j++) {
            const Text *one = &entry->id, *other = &batch->entries[j].id;
            if (one->length == other->length && memcmp(one->data, other->data, one->length) == 0)
                type = "BatchEntryIdsNotDistinct", text = "Two entries have one Id.";
        }
    }
    if (type == NULL && bytes > BATCH_BYTES) type = "BatchRequestTooLong", text = "The batch has over 1048576 bytes.";
    if (type == NULL && (missing || batch->queue_url.length == 0)) {
        bad_request(connection, "MissingParameter", "MissingParameter", "A parameter that is needed is missing.");
        return false;
    }
    if (type == NULL) return true;
    snprintf(code, sizeof code, "%s%s", prefix, type);
    bad_request(connection, type, code, text);
    return false;
}

static Fate fate_of(const Entry *entry) {
    if (entry->body.odd || entry->body.length == 0) return REJECTED;
    if (entry->body.length + entry->attributes.bytes > options.max_message_size) return REJECTED;
    return happens(options.fail) ? FAILED : ACCEPTED;
}

static void put_failed(Buffer *to, const Entry *entry, Fate fate) {
    PUT(to, "{\"Id\":\"");
    put(to, entry->id.data, entry->id.length);
    if (fate == FAILED)
        PUT(to, "\",\"Code\":\"InternalError\",\"Message\":\"It failed, as it was asked to.\",\"SenderFault\":false}");
    else if (entry->body.odd)
        PUT(to, "\",\"Code\":\"InvalidMessageContents\",\"Message\":\"A character isn't allowed.\",\"SenderFault\":true}");
    else
        PUT(to, "\",\"Code\":\"InvalidParameterValue\",\"Message\":\"The body's length isn't allowed.\","
                "\"SenderFault\":true}");
}

static void put_successful(Buffer *to, const Entry *entry, const unsigned char *md5, bool fifo) {
    static uint64_t sequence = 1885000000000000000u;
    PUT(to, "{\"Id\":\"");
    put(to, entry->id.data, entry->id.length);
    PUT(to, "\",\"MessageId\":\"");
    put_uuid(to);
    PUT(to, "\",\"MD5OfMessageBody\":\"");
    put_hex(to, md5, 16);
    if (entry->attributes.count) {
        PUT(to, "\",\"MD5OfMessageAttributes\":\"");
        put_hex(to, entry->attributes.md5, 16);
    }
    if (entry->system_attributes.count) {
        PUT(to, "\",\"MD5OfMessageSystemAttributes\":\"");
        put_hex(to, entry->system_attributes.md5, 16);
    }
    if (fifo) put_format(to, "\",\"SequenceNumber\":\"%020llu", (unsigned long long)(sequence += 256));
    PUT(to, "\"}");
}

static void remember(Connection *connection, int nth, const Text *body) {
    Buffer *record = &connection->record;
    connection->marks[nth] = record->length;
    PUT(record, "A");
    put(record, body->data, body->length);
    PUT(record, "\n");
}

static void send_message_batch(Connection *connection) {
    static Batch batch;
    static Buffer failures;
    stats.batches++;
    if (happens(options.reset)) {
        stats.resets++;
        connection->ending = RESET;
        return;
    }
    if (happens(options.throttle)) {
        stats.throttled++;
        refuse(connection, "403 Forbidden", "RequestThrottled", "RequestThrottled", "The rate is exceeded.");
        return;
    }
    if (!json_batch(connection->in.data + connection->body, connection->body_length, &batch)) {
        bad_request(connection, "SerializationException", "SerializationException", "The body is no such JSON.");
        return;
    }
    if (!is_batch(connection, &batch)) return;
    bool fifo = is_fifo(&batch.queue_url);
    const Text *texts[ENTRIES];
    unsigned char md5s[ENTRIES][16];
    for (int i = 0; i < batch.count; i++) texts[i] = &batch.entries[i].body;
    md5_all(texts, batch.count, md5s);
    answer.length = failures.length = 0;
    PUT(&answer, "{\"Successful\":[");
    for (int i = 0; i < batch.count; i++) {
        const Entry *entry = &batch.entries[i];
        Fate fate = fate_of(entry);
        if (fate != ACCEPTED) {
            *(fate == FAILED ? &stats.failed : &stats.rejected) += 1;
            if (failures.length) PUT(&failures, ",");
            put_failed(&failures, entry, fate);
            continue;
        }
        if (connection->messages) PUT(&answer, ",");
        put_successful(&answer, entry, md5s[i], fifo);
        if (options.record) remember(connection, connection->messages, &entry->body);
        connection->messages++;
    }
    stats.accepted += (uint64_t)connection->messages;
    PUT(&answer, "]");
    if (failures.length) {
        PUT(&answer, ",\"Failed\":[");
        put(&answer, failures.data, failures.length);
        PUT(&answer, "]");
    }
    PUT(&answer, "}");
    respond(connection, "200 OK", NULL);
    if (happens(options.lose)) connection->ending = LOSE;
}

static void get_queue_attributes(Connection *connection) {
    static Batch batch;
    if (!json_batch(connection->in.data + connection->body, connection->body_length, &batch)) {
        bad_request(connection, "SerializationException", "SerializationException", "The body is no such JSON.");
        return;
    }
    const Text *url = &batch.queue_url;
    size_t begin = url->length;
    while (begin > 0 && url->data[begin - 1] != '/') begin--;
    Text name = {url->data + begin, url->length - begin, false}, stem = name;
    if (is_fifo(&name)) stem.length -= 5;
    if (!is_id(&stem)) {
        bad_request(connection, "QueueDoesNotExist", "AWS.SimpleQueueService.NonExistentQueue", "There is no such queue.");
        return;
    }
    answer.length = 0;
    put_format(&answer,
               "{\"Attributes\":{\"MaximumMessageSize\":\"%zu\",\"QueueArn\":\"arn:aws:sqs:us-east-1:000000000000:%.*s\","
               "\"ApproximateNumberOfMessages\":\"%llu\"%s}}",
               options.max_message_size, (int)name.length, name.data, (unsigned long long)stats.accepted,
               is_fifo(&name) ? ",\"FifoQueue\":\"true\",\"ContentBasedDeduplication\":\"false\"" : "");
    respond(connection, "200 OK", NULL);
}

static void tell_stats(Connection *connection) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    double cpu = (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
                 (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
    answer.length = 0;
    PUT(&answer, "{");
#define TELL(name) put_format(&answer, "\"" #name "\":%llu,", (unsigned long long)stats.name)
    TELL(connections);
    TELL(open);
    TELL(requests);
    TELL(batches);
    TELL(accepted);
    TELL(rejected);
    TELL(throttled);
    TELL(failed);
    TELL(resets);
    TELL(lost_answers);
    TELL(lost_messages);
    TELL(errors);
    TELL(bytes);
    put_format(&answer, "\"cpu\":%.6f}", cpu);
    respond(connection, "200 OK", NULL);
}

/* What was accepted */

static int recorder = -1;
static Buffer recorded;

static void flush_record(void) {
    for (size_t done = 0; done < recorded.length;) {
        ssize_t count = write(recorder, recorded.data + done, recorded.length - done);
        if (count < 0 && errno != EINTR) die(options.record);
        if (count > 0) done += (size_t)count;
    }
    recorded.length = 0;
}

/* An accepted batch's answer was written, or won't ever be. */
static void settle(Connection *connection, bool lost) {
    if (lost && connection->messages) {
        stats.lost_answers++;
        stats.lost_messages += (uint64_t)connection->messages;
    }
    if (options.record && connection->messages) {
        for (int i = 0; lost && i < connection->messages; i++) connection->record.data[connection->marks[i]] = 'L';
        put(&recorded, connection->record.data, connection->record.length);
        if (recorded.length >= RECORD_BYTES) flush_record();
    }
    connection->record.length = 0;
    connection->messages = 0;
}

/* The timer queue: a binary heap, the earliest first */

static Connection **timers;
static size_t timer_count, timer_capacity;

static void place(Connection *connection, size_t at) {
    timers[at] = connection;
    connection->timer = at;
}

static void sift(Connection *connection, size_t at) {
    for (; at > 1 && timers[at / 2]->due > connection->due; at /= 2) place(timers[at / 2], at);
    for (size_t child; (child = 2 * at) <= timer_count; at = child) {
        if (child < timer_count && timers[child + 1]->due < timers[child]->due) child++;
        if (timers[child]->due >= connection->due) break;
        place(timers[child], at);
    }
    place(connection, at);
}

static void timer_add(Connection *connection) {
    if (timer_count + 1 >= timer_capacity) {
        timer_capacity = timer_capacity ? 2 * timer_capacity : 1024;
        timers = grown(timers, timer_capacity * sizeof *timers);
    }
    sift(connection, ++timer_count);
}

static void timer_remove(Connection *connection) {
    size_t at = connection->timer;
    if (at == 0) return;
    connection->timer = 0;
    Connection *last = timers[timer_count--];
    if (last != connection) sift(last, at);
}

/* Connections */

static void watch(Connection *connection, uint32_t events) {
    if (connection->events == events) return;
    struct epoll_event event = {.events = events, .data.ptr = connection};
    if (epoll_ctl(poller, EPOLL_CTL_MOD, connection->fd, &event) < 0) die("epoll_ctl");
    connection->events = events;
}

static void hang_up(Connection *connection, bool reset) {
    if (connection->closed) return;
    if (connection->waiting || connection->answering) settle(connection, true);
    timer_remove(connection);
    if (reset) {
        struct linger linger = {.l_onoff = 1, .l_linger = 0};
        setsockopt(connection->fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
    }
    close(connection->fd);
    connection->closed = true;
    connection->next = graveyard;
    graveyard = connection;
    stats.open--;
}

static void bury(void) {
    while (graveyard) {
        Connection *connection = graveyard;
        graveyard = connection->next;
        SSL_free(connection->ssl);
        free(connection->in.data);
        free(connection->out.data);
        free(connection->record.data);
        free(connection);
    }
}

/* Some of TLS reads or writes has to wait; says whether that's all that is wrong. */
static bool tls_waits(Connection *connection, int result) {
    int error = SSL_get_error(connection->ssl, result);
    ERR_clear_error();
    connection->wants_write = error == SSL_ERROR_WANT_WRITE;
    return error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE;
}

/* As much as there is: -1 at the connection's end. */
static int receive(Connection *connection) {
    Buffer *in = &connection->in;
    for (;;) {
        reserve(in, 16 * 1024 + SLACK);
        size_t room = in->capacity - in->length - SLACK;
        ssize_t count;
        if (connection->ssl) {
            count = SSL_read(connection->ssl, in->data + in->length, (int)room);
            if (count <= 0) return tls_waits(connection, (int)count) ? 0 : -1;
        } else {
            count = recv(connection->fd, in->data + in->length, room, 0);
            if (count < 0) return errno == EAGAIN || errno == EINTR ? 0 : -1;
            if (count == 0) return -1;
        }
        in->length += (size_t)count;
        stats.bytes += (uint64_t)count;
        if (in->length > REQUEST_BYTES) return -1;
        if (connection->ssl ? !SSL_has_pending(connection->ssl) : (size_t)count < room) return 0;
    }
}

/* Writes what is left of `out`; false at the connection's end. */
static bool transmit(Connection *connection) {
    Buffer *out = &connection->out;
    while (connection->written < out->length) {
        size_t left = out->length - connection->written;
        ssize_t count;
        if (connection->ssl) {
            count = SSL_write(connection->ssl, out->data + connection->written, (int)left);
            if (count <= 0) {
                if (!tls_waits(connection, (int)count)) return false;
                break;
            }
        } else {
            count = send(connection->fd, out->data + connection->written, left, MSG_NOSIGNAL);
            if (count < 0) {
                if (errno != EAGAIN && errno != EINTR) return false;
                break;
            }
        }
        connection->written += (size_t)count;
    }
    watch(connection, connection->written < out->length ? EPOLLIN | EPOLLOUT : EPOLLIN);
    return true;
}

/* The delay is over. */
static void reply(Connection *connection) {
    connection->waiting = false;
    connection->answering = true;
    if (connection->ending == RESET || connection->ending == LOSE) {
        hang_up(connection, connection->ending == RESET);
        return;
    }
    connection->written = 0;
    if (!transmit(connection)) hang_up(connection, false);
}

/* Goes on after an answer was written as a whole. */
static void finish(Connection *connection) {
    settle(connection, false);
    connection->answering = false;
    if (connection->ending == CLOSE) {
        if (connection->ssl) SSL_shutdown(connection->ssl);
        hang_up(connection, false);
    }
}

static void handle(Connection *connection) {
    bool batch = strcmp(connection->target, "AmazonSQS.SendMessageBatch") == 0;
    connection->ending = connection->keep_alive ? KEEP : CLOSE;
    connection->messages = 0;
    stats.requests += !connection->is_stats;
    if (connection->is_stats) tell_stats(connection);
    else if (connection->method != 'P') bad_request(connection, "InvalidAddress", "InvalidAddress", "POST, please.");
    else if (batch) send_message_batch(connection);
    else if (strcmp(connection->target, "AmazonSQS.GetQueueAttributes") == 0) get_queue_attributes(connection);
    else bad_request(connection, "UnknownOperationException", "InvalidAction", "This server doesn't know it.");

    size_t used = connection->body + connection->body_length;
    if (connection->stage == CHUNKS) used = connection->chunk_from;
    connection->in.length -= used;
    memmove(connection->in.data, connection->in.data + used, connection->in.length);
    connection->stage = HEADERS;

    double milliseconds = options.latency_from;
    if (options.latency_to > options.latency_from)
        milliseconds += random_unit() * (options.latency_to - options.latency_from);
    connection->waiting = true;
    if (milliseconds <= 0 || connection->is_stats) {
        reply(connection);
    } else {
        connection->due = now_ns() + (uint64_t)(milliseconds * 1e6);
        timer_add(connection);
    }
}

static bool is_header(const char *line, size_t length, const char *name) {
    size_t size = strlen(name);
    return length > size && line[size] == ':' && strncasecmp(line, name, size) == 0;
}

static bool has_word(const char *text, size_t length, const char *word) {
    size_t size = strlen(word);
    for (; length >= size; text++, length--)
        if (strncasecmp(text, word, size) == 0) return true;
    return false;
}

/* Reads the request's head: 1 done, 0 there is more to come, -1 it is none. */
static int read_head(Connection *connection) {
    char *begin = connection->in.data, *end = memmem(begin, connection->in.length, "\r\n\r\n", 4);
    if (end == NULL) return connection->in.length > HEADER_BYTES ? -1 : 0;
    char *line = begin, *line_end = memchr(line, '\r', (size_t)(end - begin) + 1);
    connection->method = *line;
    connection->is_stats = line_end - line >= 12 && memcmp(line, "GET /_stats ", 12) == 0;
    connection->keep_alive = line_end - line > 8 && memcmp(line_end - 8, "HTTP/1.1", 8) == 0;
    connection->continues = false;
    connection->target[0] = 0;
    connection->body = (size_t)(end - begin) + 4;
    connection->body_length = 0;
    connection->stage = BODY;
    while (line_end < end) {
        line = line_end + 2;
        line_end = memchr(line, '\r', (size_t)(end - line) + 1);
        if (line_end == NULL) return -1;
        size_t length = (size_t)(line_end - line);
        const char *value = memchr(line, ':', length);
        if (value == NULL) return -1;
        do value++;
        while (value < line_end && (*value == ' ' || *value == '\t'));
        size_t size = (size_t)(line_end - value);
        switch (*line | 32) {
        case 'c':
            if (is_header(line, length, "content-length")) {
                if (size == 0 || size > 9) return -1;
                for (size_t i = 0; i < size; i++) {
                    if ((unsigned char)(value[i] - '0') > 9) return -1;
                    connection->body_length = connection->body_length * 10 + (size_t)(value[i] - '0');
                }
                if (connection->body_length > REQUEST_BYTES) return -1;
            } else if (is_header(line, length, "connection") && has_word(value, size, "close")) {
                connection->keep_alive = false;
            }
            break;
        case 'e':
            if (is_header(line, length, "expect")) connection->continues = has_word(value, size, "100-continue");
            break;
        case 't':
            if (is_header(line, length, "transfer-encoding") && has_word(value, size, "chunked")) {
                connection->stage = CHUNKS;
                connection->chunk_from = connection->chunk_to = connection->body;
            }
            break;
        case 'x':
            if (is_header(line, length, "x-amz-target") && size < sizeof connection->target) {
                memcpy(connection->target, value, size);
                connection->target[size] = 0;
            }
            break;
        default: break;
        }
    }
    if (connection->stage == CHUNKS) connection->body_length = 0;
    return 1;
}

/* Joins the chunks that have come as a whole: 1 when the last one has, 0 there is more to come, -1 they are none. */
static int read_chunks(Connection *connection) {
    Buffer *in = &connection->in;
    for (;;) {
        char *line = in->data + connection->chunk_from;
        size_t left = in->length - connection->chunk_from, size = 0;
        char *end = memmem(line, left, "\r\n", 2);
        if (end == NULL) return left > 256 ? -1 : 0;
        const char *at = line;
        for (; at < end && *at != ';'; at++) {
            char c = *at;
            unsigned digit = (unsigned char)(c - '0') < 10 ? (unsigned)(c - '0') : (unsigned)((c | 32) - 'a') + 10;
            if (digit > 15 || size > REQUEST_BYTES) return -1;
            size = size << 4 | digit;
        }
        if (at == line) return -1;
        size_t head = (size_t)(end - line) + 2;
        if (size == 0) { /* trailers, and an empty line */
            char *trailers = line + head - 2, *done = memmem(trailers, left - head + 2, "\r\n\r\n", 4);
            if (done == NULL) return 0;
            connection->chunk_from = (size_t)(done - in->data) + 4;
            connection->body_length = connection->chunk_to - connection->body;
            return 1;
        }
        if (left < head + size + 2) return 0;
        if (memcmp(line + head + size, "\r\n", 2) != 0) return -1;
        memmove(in->data + connection->chunk_to, line + head, size);
        connection->chunk_to += size;
        connection->chunk_from += head + size + 2;
    }
}

/* Handles requests that have come as a whole, one after the other. */
static void advance(Connection *connection) {
    static const char carry_on[] = "HTTP/1.1 100 Continue\r\n\r\n";
    for (;;) {
        if (connection->closed || connection->waiting) return;
        if (connection->answering) {
            if (connection->written < connection->out.length) return;
            finish(connection);
            continue;
        }
        int complete = 1;
        if (connection->stage == HEADERS) {
            if (connection->in.length == 0) return;
            complete = read_head(connection);
            if (complete == 1 && connection->continues) {
                connection->out.length = connection->written = 0;
                put(&connection->out, carry_on, sizeof carry_on - 1);
                if (!transmit(connection)) complete = -1;
            }
        }
        if (complete == 1 && connection->stage == CHUNKS) complete = read_chunks(connection);
        else if (complete == 1) complete = connection->in.length >= connection->body + connection->body_length;
        if (complete == 0) return;
        if (complete < 0) {
            stats.errors++;
            hang_up(connection, false);
            return;
        }
        handle(connection);
    }
}

static void on_event(Connection *connection, uint32_t events) {
    if (connection->closed) return;
    if (connection->ssl && !connection->handshaken) {
        int result = SSL_accept(connection->ssl);
        if (result <= 0) {
            if (!tls_waits(connection, result)) hang_up(connection, false);
            else watch(connection, connection->wants_write ? EPOLLOUT : EPOLLIN);
            return;
        }
        connection->handshaken = true;
        watch(connection, EPOLLIN);
        if (!SSL_has_pending(connection->ssl)) return;
        events |= EPOLLIN;
    }
    if ((events & EPOLLOUT) && !connection->waiting && connection->written < connection->out.length && !transmit(connection)) {
        hang_up(connection, false);
        return;
    }
    if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) && receive(connection) < 0) {
        hang_up(connection, false);
        return;
    }
    advance(connection);
}

static void welcome(int listener) {
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC), on = 1;
        if (fd < 0) {
            if (errno == EINTR || errno == ECONNABORTED) continue;
            if (errno == EAGAIN) return;
            die("accept4");
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        Connection *connection = calloc(1, sizeof *connection);
        if (connection == NULL) die("calloc");
        connection->fd = fd;
        connection->events = EPOLLIN;
        if (tls) {
            connection->ssl = SSL_new(tls);
            if (connection->ssl == NULL || !SSL_set_fd(connection->ssl, fd)) die("SSL_new");
        }
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = connection};
        if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) < 0) die("epoll_ctl");
        stats.connections++;
        stats.open++;
    }
}

/* The server */

static int choose_http11(SSL *ssl, const unsigned char **out, unsigned char *out_length, const unsigned char *in,
                         unsigned int in_length, void *unused) {
    static const unsigned char known[] = "\x08http/1.1";
    (void)ssl, (void)unused;
    int found = SSL_select_next_proto((unsigned char **)out, out_length, known, sizeof known - 1, in, in_length);
    return found == OPENSSL_NPN_NEGOTIATED ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_NOACK;
}

static void start_tls(void) {
    tls = SSL_CTX_new(TLS_server_method());
    if (tls == NULL || SSL_CTX_use_certificate_chain_file(tls, options.cert) != 1 ||
        SSL_CTX_use_PrivateKey_file(tls, options.key, SSL_FILETYPE_PEM) != 1) {
        ERR_print_errors_fp(stderr);
        exit(1);
    }
    SSL_CTX_set_min_proto_version(tls, TLS1_2_VERSION);
    SSL_CTX_set_mode(tls, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_read_ahead(tls, 1);
    SSL_CTX_set_alpn_select_cb(tls, choose_http11, NULL);
}

static int listen_at(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)options.port)};
    socklen_t length = sizeof address;
    int on = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (inet_pton(AF_INET, options.host, &address.sin_addr) != 1) errno = EINVAL, die(options.host);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&address, length) < 0 || listen(listener, 4096) < 0) die("listen");
    getsockname(listener, (struct sockaddr *)&address, &length);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    return listener;
}

static void on_signal(int number) {
    (void)number;
    ended = 1;
}

/* Waits for events until the next answer is due. Signals come through only here. */
static int wait_for_events(struct epoll_event *events, const sigset_t *mask) {
    static bool coarse; /* a kernel that knows milliseconds alone */
    struct timespec left = {0}, *timeout = NULL;
    if (timer_count) {
        uint64_t now = now_ns(), due = timers[1]->due, wait = due > now ? due - now : 0;
        left.tv_sec = (time_t)(wait / 1000000000u);
        left.tv_nsec = (long)(wait % 1000000000u);
        timeout = &left;
    }
    if (!coarse) {
        int count = epoll_pwait2(poller, events, EVENTS, timeout, mask);
        if (count >= 0 || errno != ENOSYS) return count;
        coarse = true;
    }
    int milliseconds = timeout ? (int)(left.tv_sec * 1000 + (left.tv_nsec + 999999) / 1000000) : -1;
    return epoll_pwait(poller, events, EVENTS, milliseconds, mask);
}

/* Keeps signals for later; gives the mask that lets them through. */
static sigset_t hold_signals(void) {
    sigset_t blocked, before;
    struct sigaction action = {.sa_handler = on_signal};
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGTERM);
    sigaddset(&blocked, SIGINT);
    sigprocmask(SIG_BLOCK, &blocked, &before);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
    return before;
}

static void serve(int listener, const sigset_t *mask) {
    static struct epoll_event events[EVENTS];
    while (!ended) {
        int count = wait_for_events(events, mask);
        if (count < 0 && errno != EINTR) die("epoll_pwait");
        for (int i = 0; i < count; i++) {
            if (events[i].data.ptr == NULL) welcome(listener);
            else on_event(events[i].data.ptr, events[i].events);
        }
        for (uint64_t now = timer_count ? now_ns() : 0; timer_count && timers[1]->due <= now;) {
            Connection *connection = timers[1];
            timer_remove(connection);
            reply(connection);
            advance(connection);
        }
        bury();
    }
}

static double probability(const char *text) {
    char *end;
    double value = strtod(text, &end);
    if (*end || end == text || !(value >= 0 && value <= 1)) errno = EINVAL, die(text);
    return value;
}

static void parse(int count, char **arguments) {
    static const struct option known[] = {
        {"port", required_argument, NULL, 'p'},       {"host", required_argument, NULL, 'h'},
        {"cert", required_argument, NULL, 'c'},       {"key", required_argument, NULL, 'k'},
        {"latency-ms", required_argument, NULL, 'l'}, {"max-message-size", required_argument, NULL, 'm'},
        {"throttle", required_argument, NULL, 't'},   {"fail", required_argument, NULL, 'f'},
        {"reset", required_argument, NULL, 'r'},      {"lose", required_argument, NULL, 'o'},
        {"seed", required_argument, NULL, 's'},       {"record", required_argument, NULL, 'w'},
        {NULL, 0, NULL, 0},
    };
    for (int option; (option = getopt_long(count, arguments, "", known, NULL)) != -1;) {
        char *end;
        switch (option) {
        case 'p': options.port = atoi(optarg); break;
        case 'h': options.host = optarg; break;
        case 'c': options.cert = optarg; break;
        case 'k': options.key = optarg; break;
        case 'l':
            options.latency_from = options.latency_to = strtod(optarg, &end);
            if (*end == '-') options.latency_to = strtod(end + 1, &end);
            if (*end || options.latency_to < options.latency_from) errno = EINVAL, die(optarg);
            break;
        case 'm': options.max_message_size = strtoul(optarg, NULL, 10); break;
        case 't': options.throttle = probability(optarg); break;
        case 'f': options.fail = probability(optarg); break;
        case 'r': options.reset = probability(optarg); break;
        case 'o': options.lose = probability(optarg); break;
        case 's': options.seed = strtoull(optarg, NULL, 10); break;
        case 'w': options.record = optarg; break;
        default: exit(2);
        }
    }
    if (optind < count || (options.cert == NULL) != (options.key == NULL)) {
        fputs("sqs_server: --cert and --key go together, and there are no arguments\n", stderr);
        exit(2);
    }
}

int main(int count, char **arguments) {
    parse(count, arguments);
    random_state = options.seed;
    reserve(&answer, ANSWER_BYTES);
    if (options.cert) start_tls();
    if (options.record) {
        recorder = open(options.record, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
        if (recorder < 0) die(options.record);
    }
    poller = epoll_create1(EPOLL_CLOEXEC);
    sigset_t mask = hold_signals();
    int listener = listen_at();
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    if (poller < 0 || epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event) < 0) die("epoll_ctl");
    serve(listener, &mask);
    flush_record();
    return 0;
}
