package streaming

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

// A token lives for as long as a client may take from the answer to the connection. Their number is bounded: whoever floods the daemon
// with requests for streams gets ResourceExhausted, not its memory.
const (
	tokenLife   = time.Minute
	maxTokens   = 1000
	tokenLength = 32 // random bytes
)

// tokens are requests that wait for their connection. Whoever knows a token may open the stream, once.
type tokens struct {
	now func() time.Time

	mu      sync.Mutex
	waiting map[string]ticket
	order   []string // by age; may name tokens that are gone
}

type ticket struct {
	session session
	expires time.Time
}

func newTokens(now func() time.Time) *tokens {
	return &tokens{now: now, waiting: make(map[string]ticket)}
}

// issue answers a token for the session.
func (t *tokens) issue(s session) (string, error) {
	raw := make([]byte, tokenLength)
	rand.Read(raw) // never fails
	token := base64.RawURLEncoding.EncodeToString(raw)

	t.mu.Lock()
	defer t.mu.Unlock()
	t.prune()
	if len(t.waiting) >= maxTokens {
		return "", fmt.Errorf("%d streams wait for their connection: %w", len(t.waiting), errdefs.ErrResourceExhausted)
	}
	t.waiting[token] = ticket{session: s, expires: t.now().Add(tokenLife)}
	t.order = append(t.order, token)
	return token, nil
}

// redeem answers the session of a token and forgets it.
func (t *tokens) redeem(token string) (session, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.prune()
	ticket, ok := t.waiting[token]
	delete(t.waiting, token)
	return ticket.session, ok
}

// prune forgets what is too old. The caller holds mu.
func (t *tokens) prune() {
	for len(t.order) > 0 {
		oldest, ok := t.waiting[t.order[0]]
		if ok && t.now().Before(oldest.expires) {
			return
		}
		delete(t.waiting, t.order[0])
		t.order = t.order[1:]
	}
}
