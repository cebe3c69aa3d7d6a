<?php // A backend for lobbyd: LOBBYD_SECRET_FILE=secret php -S 127.0.0.1:PORT backend.php
$secret = trim(file_get_contents(getenv('LOBBYD_SECRET_FILE')));
$users = ['token-of-ann' => ['allow' => true, 'user' => 'ann', 'tier' => 'pro', 'role' => 'host', 'data' => ['rating' => 1850]]];

$body = file_get_contents('php://input');
$sentAt = $_SERVER['HTTP_X_LOBBYD_TIMESTAMP'] ?? '';
$expected = 'sha256=' . hash_hmac('sha256', "$sentAt.$body", $secret);
$isSigned = hash_equals($expected, $_SERVER['HTTP_X_LOBBYD_SIGNATURE'] ?? '');
if (!$isSigned || abs(microtime(true) * 1000 - (float) $sentAt) > 60000) {
    http_response_code(401);
    exit;
}
$call = json_decode($body, true);
$answer = new stdClass();
if ($call['type'] === 'connect') {
    $answer = $users[$call['token']] ?? ['allow' => false, 'reason' => 'unauthorized'];
} else {
    foreach ($call['events'] as $event) {
        file_put_contents('php://stdout', json_encode($event, JSON_UNESCAPED_UNICODE | JSON_UNESCAPED_SLASHES) . "\n");
    }
}
header('Content-Type: application/json');
echo json_encode($answer);
