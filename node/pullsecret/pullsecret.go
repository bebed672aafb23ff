// Package pullsecret finds the credentials for an image in Secrets of the types kubernetes.io/dockerconfigjson and kubernetes.io/dockercfg.
//
// Inside: reading these, and which entry is for which image, as the kubelet has it: hosts may have wildcards, the longest path wins.
// Not inside: asking for the Secrets, and pulling.
package pullsecret

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"
)

// Credential is what to say to a registry.
type Credential struct{ Username, Password, IdentityToken, RegistryToken string }

type entry struct {
	where *url.URL // host and path; the host may hold wildcards
	key   string
	Credential
}

// Keyring holds credentials by the places that they are for.
type Keyring struct{ entries []entry }

// document is a docker configuration file; a dockercfg has the content of its auths alone.
type document struct {
	Auths map[string]login `json:"auths"`
}

type login struct {
	Username      string `json:"username"`
	Password      string `json:"password"`
	Auth          string `json:"auth"`
	IdentityToken string `json:"identitytoken"`
	RegistryToken string `json:"registrytoken"`
}

// New reads Secrets. Those that are no credentials add none; what is wrong with others is told beside the answer.
func New(secrets []*corev1.Secret) (*Keyring, error) {
	ring := &Keyring{}
	var problems []string
	for _, secret := range secrets {
		doc := document{}
		var err error
		switch secret.Type {
		case corev1.SecretTypeDockerConfigJson:
			err = json.Unmarshal(secret.Data[corev1.DockerConfigJsonKey], &doc)
		case corev1.SecretTypeDockercfg:
			err = json.Unmarshal(secret.Data[corev1.DockerConfigKey], &doc.Auths)
		default:
			continue
		}
		for place, l := range doc.Auths {
			if err == nil {
				err = ring.add(place, l)
			}
		}
		if err != nil { // not what it holds
			problems = append(problems, secret.Namespace+"/"+secret.Name)
		}
	}
	slices.SortStableFunc(ring.entries, func(a, b entry) int { return cmp.Compare(b.key, a.key) })
	if len(problems) > 0 {
		return ring, fmt.Errorf("these secrets are no docker configurations: %s: %w", strings.Join(problems, ", "), errdefs.ErrInvalidArgument)
	}
	return ring, nil
}

func (k *Keyring) add(place string, l login) error {
	if !strings.HasPrefix(place, "https://") && !strings.HasPrefix(place, "http://") {
		place = "https://" + place
	}
	where, err := url.Parse(place)
	if err != nil {
		return err
	}
	for _, version := range []string{"/v1", "/v2"} { // the same as the host, as docker has it
		if where.Path == version || strings.HasPrefix(where.Path, version+"/") {
			where.Path = where.Path[len(version):]
		}
	}
	where.Path = strings.TrimSuffix(where.Path, "/")
	e := entry{where: where, key: where.Host + where.Path, Credential: Credential{l.Username, l.Password, l.IdentityToken, l.RegistryToken}}
	if l.Auth != "" && l.Username == "" {
		text, err := base64.StdEncoding.DecodeString(l.Auth)
		if err != nil {
			return err
		}
		e.Username, e.Password, _ = strings.Cut(string(text), ":")
	}
	k.entries = append(k.entries, e)
	return nil
}

// For answers the credentials to try for an image, the most specific first.
func (k *Keyring) For(image string) []Credential {
	host, repository := split(image)
	var found []Credential
	for _, e := range k.entries {
		if hostMatches(e.where.Host, host) && strings.HasPrefix(repository, e.where.Path) {
			found = append(found, e.Credential)
		}
	}
	return found
}

// split takes an image's name apart: the registry, and /repository without tag or digest.
func split(image string) (host, repository string) {
	const hub = "index.docker.io"
	name, _, _ := strings.Cut(image, "@")
	if slash := strings.LastIndexByte(name, '/'); strings.LastIndexByte(name, ':') > slash {
		name = name[:strings.LastIndexByte(name, ':')]
	}
	first, rest, found := strings.Cut(name, "/")
	switch {
	case !found:
		return hub, "/library/" + name
	case first == "docker.io":
		return hub, "/" + rest
	case strings.ContainsAny(first, ".:") || first == "localhost":
		return first, "/" + rest
	}
	return hub, "/" + name
}

// hostMatches: each part of a name is matched by itself, and ports have to be equal.
func hostMatches(pattern, host string) bool {
	if pattern == "docker.io" {
		pattern = "index.docker.io"
	}
	patternName, patternPort, _ := strings.Cut(pattern, ":")
	name, port, _ := strings.Cut(host, ":")
	patterns, parts := strings.Split(patternName, "."), strings.Split(name, ".")
	if patternPort != port || len(patterns) != len(parts) {
		return false
	}
	for i := range parts {
		if ok, err := path.Match(patterns[i], parts[i]); err != nil || !ok {
			return false
		}
	}
	return true
}
