package server

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
)

var verbs = map[string]string{
	http.MethodPost: "create", http.MethodGet: "get", http.MethodPut: "update", http.MethodPatch: "patch", http.MethodDelete: "delete",
}

// subresources are those of the node of which one has to be allowed for a path: the kubelet's mapping, with KubeletFineGrainedAuthz.
func subresources(path string) []string {
	for _, known := range []struct {
		path string
		subs []string
	}{
		{"/stats", []string{"stats"}},
		{"/metrics", []string{"metrics"}},
		{"/logs", []string{"log"}},
		{"/checkpoint", []string{"checkpoint"}},
		{"/statusz", []string{"statusz"}},
		{"/flagz", []string{"configz"}},
		{"/pods", []string{"pods", "proxy"}},
		{"/runningpods", []string{"pods", "proxy"}},
		{"/healthz", []string{"healthz", "proxy"}},
		{"/configz", []string{"configz", "proxy"}},
	} {
		if path == known.path || strings.HasPrefix(path, known.path+"/") {
			return known.subs
		}
	}
	return []string{"proxy"}
}

// authorizer asks the API server whether somebody may do something to this node. Answers are cached, for the times that the configuration names.
type authorizer struct {
	node            string
	reviews         Reviews // nil: all is allowed
	allowed, denied time.Duration
	answers         *cache[bool]
}

func (a *authorizer) allow(ctx context.Context, user *authenticationv1.UserInfo, verb, subresource, path string) (bool, error) {
	if a.reviews == nil {
		return true, nil
	}
	spec := authorizationv1.SubjectAccessReviewSpec{
		User: user.Username, Groups: user.Groups, UID: user.UID,
		ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: verb, Version: "v1", Resource: "nodes", Subresource: subresource, Name: a.node},
	}
	if len(user.Extra) > 0 {
		spec.Extra = map[string]authorizationv1.ExtraValue{}
		for key, values := range user.Extra {
			spec.Extra[key] = authorizationv1.ExtraValue(values)
		}
	}
	key, err := json.Marshal(spec)
	if err != nil {
		return false, fmt.Errorf("writing down a request to %s: %w", path, err)
	}
	if answer, known := a.answers.get(string(key)); known {
		return answer, nil
	}
	ctx, cancel := context.WithTimeout(ctx, reviewTimeout)
	defer cancel()
	status, err := a.reviews.Access(ctx, spec)
	if err != nil {
		return false, err
	}
	ttl := a.denied
	if status.Allowed {
		ttl = a.allowed
	}
	a.answers.put(string(key), status.Allowed, ttl)
	return status.Allowed, nil
}

// guard lets through who may. What it says to others are the kubelet's words, which scripts look for.
func (s *Server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, err := s.authn.identify(r)
		if user == nil {
			if err != nil {
				s.log.Warn("somebody could not be authenticated", "path", r.URL.Path, "from", r.RemoteAddr, "error", err)
			}
			plainError(w, http.StatusUnauthorized, "Unauthorized")
			return
		}
		verb, subs := verbs[r.Method], subresources(r.URL.Path)
		for _, sub := range subs {
			ok, err := s.authz.allow(r.Context(), user, verb, sub, r.URL.Path)
			if err != nil {
				s.log.Error("a request could not be authorized", "path", r.URL.Path, "user", user.Username, "error", err)
				plainError(w, http.StatusInternalServerError, fmt.Sprintf("Authorization error (user=%s, verb=%s, resource=nodes, subresource=%s)", user.Username, verb, sub))
				return
			}
			if ok {
				next.ServeHTTP(w, r)
				return
			}
		}
		plainError(w, http.StatusForbidden, fmt.Sprintf("Forbidden (user=%s, verb=%s, resource=nodes, subresource(s)=%v)\n", user.Username, verb, subs))
	})
}

// plainError answers an error as text, without http.Error's newline: clients compare.
func plainError(w http.ResponseWriter, code int, message string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	fmt.Fprint(w, message)
}
