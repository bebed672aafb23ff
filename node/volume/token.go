package volume

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/shimd/shimd/node/objects"
)

// The kubelet's rules: a token is exchanged when 80 % of its life are over, at the latest after a day, a little earlier on one pod than on
// another so that not all ask at once.
const (
	oldestToken = 24 * time.Hour
	tokenJitter = 10 * time.Second
	tokenRetry  = 10 * time.Second // when the API server gave none
)

// tokens are one pod's. They are kept in memory alone.
type tokens struct {
	mu   sync.Mutex
	kept map[tokenKey]token
}

type tokenKey struct {
	audience string
	seconds  int64
}

type token struct {
	text         string
	renew, until time.Time
}

// get answers a token that is not due yet. When a new one cannot be had, the old one does as long as it lives.
func (t *tokens) get(ctx context.Context, source objects.Source, pod *corev1.Pod, p *corev1.ServiceAccountTokenProjection, now time.Time) (string, error) {
	key := tokenKey{audience: p.Audience}
	if p.ExpirationSeconds != nil {
		key.seconds = *p.ExpirationSeconds
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	kept, ok := t.kept[key]
	if ok && now.Before(kept.renew) {
		return kept.text, nil
	}
	fresh, err := request(ctx, source, pod, p, now)
	switch {
	case err == nil:
	case ok && now.Before(kept.until):
		kept.renew = now.Add(tokenRetry)
		fresh = kept
	default:
		return "", fmt.Errorf("failed to fetch token: %w", err)
	}
	if t.kept == nil {
		t.kept = map[tokenKey]token{}
	}
	t.kept[key] = fresh
	return fresh.text, nil
}

func request(ctx context.Context, source objects.Source, pod *corev1.Pod, p *corev1.ServiceAccountTokenProjection, now time.Time) (token, error) {
	wanted := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: p.ExpirationSeconds,
		BoundObjectRef:    &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
	}}
	if p.Audience != "" {
		wanted.Spec.Audiences = []string{p.Audience}
	}
	got, err := source.Token(ctx, pod.Namespace, pod.Spec.ServiceAccountName, wanted)
	if err != nil {
		return token{}, err
	}
	until := got.Status.ExpirationTimestamp.Time
	life := until.Sub(now)
	if got.Spec.ExpirationSeconds != nil { // what the API server made of it: by its clock, not by ours
		life = time.Duration(*got.Spec.ExpirationSeconds) * time.Second
	}
	return token{text: got.Status.Token, until: until, renew: due(until, life, rand.N(tokenJitter))}, nil
}

// due is when a token has to be exchanged that lives until then.
func due(until time.Time, life, jitter time.Duration) time.Time {
	day := until.Add(-life).Add(oldestToken - jitter)
	most := until.Add(-life/5 - jitter)
	if day.Before(most) {
		return day
	}
	return most
}

// next is when the first of the tokens is due; zero: never.
func (t *tokens) next() time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	var first time.Time
	for _, kept := range t.kept {
		if first.IsZero() || kept.renew.Before(first) {
			first = kept.renew
		}
	}
	return first
}
