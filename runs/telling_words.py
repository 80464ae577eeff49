"""Words on buttons and links that tell what they do, by the reason why that matters.

A `*` stands for any ending. Words count whole; those of scripts without spaces count wherever they stand.
"""

import re
import unicodedata
from collections.abc import Iterator
from functools import cache

TELLING: dict[str, str] = {
    "payment": """
        pay, pays, paying, payment, pay now, purchase, buy, order, order now, checkout, check out, book,
        booking, reserve, subscribe, donate, transfer, withdraw, deposit, top up, place bid, bid, rent,
        bet, invest, redeem, upgrade plan, bezahl*, zahlen, zahlung*, kauf*, einkaufen, bestell*, kasse,
        buchen, jetzt buchen, reservier*, abonnier*, spenden, überweis*, abheben, einzahl*, aufladen,
        mieten, bieten, payer, paiement, achet*, commander, commande, réserv*, s'abonner, abonner,
        donner, virement, virer, retirer, régler, pagar, pague, pago, comprar, compra, compre, pedir,
        pedido, encargar, reservar, suscrib*, donar, transferir, retirar, pagamento, finalizar,
        assinar plano, doar, sacar, alugar, paga, pagare, acquist*, compra*, ordina, ordinare, prenota*,
        abbona*, dona, bonific*, preleva*, betaal*, betalen, koop, kopen, bestel, bestellen, afrekenen,
        boek, boeken, reserveer*, doneer*, overmaken, betala*, köp*, beställ*, boka, betal, kjøp*, køb*,
        bestill*, bestil*, maksa, osta, tilaa, varaa, zapłać, płać, płatno*, kup, kupuj*, kupić, zamów*,
        zamawiam, rezerwuj, zarezerwuj, przelew, przelej, wypłać, zaplat*, koupit, objedna*, kúpiť,
        plateș*, plăteș*, cumpăr*, fizet*, megrendel*, vásárl*, foglal*, оплат*, платить, платеж*,
        платёж*, платіж*, купить, купи, покупк*, заказ*, оформить, заброниров*, забронюв*, перевести,
        вывести, купити, замов*, сплат*, переказ*, πληρωμ*, αγορ*, παραγγελ*, κράτηση, ode, ödeme, öde,
        satın al, sipariş*, rezervasyon*, ادفع, دفع, شراء, اشتر, اشتري, اطلب, طلب, احجز, حجز, تحويل,
        سحب, לתשלום, תשלום, קנה, קנייה, הזמן, הזמנה, भुगतान*, खरीद*, ऑर्डर, बुक, bayar, beli, pesan,
        mua, mua ngay, thanh toán, đặt hàng, đặt, 支払, 購入, 買う, 注文, 予約, 決済, 送金, 振込,
        引き出, 支付, 付款, 购买, 購買, 下单, 下單, 订购, 訂購, 结算, 結帳, 結算, 预订, 預訂, 转账,
        轉帳, 提现, 提現, 充值, 결제, 구매, 주문, 예약, 송금, 이체, 출금, ชำระ, ซื้อ, สั่งซื้อ, จอง""",
    "post": """
        post, publish, share, tweet, repost, retweet, comment, reply, go live, upload, release,
        veröffentlich*, teilen, posten, kommentier*, antworten, freigeben, publier, partager, commenter,
        répondre, poster, publicar, compartir, comentar, responder, compartilhar, postar, partilhar,
        pubblica*, condividi*, commenta*, rispondi, rispondere, publiceer*, publiceren, delen, plaatsen,
        reageren, publicera*, dela, svara, svar, publiser*, julkaise, jaa, vastaa, opublikuj,
        udostępnij, skomentuj, odpowiedz, publikovat, sdílet, odpovědět, közzété*, megoszt*, publică,
        distribuie, răspunde, опублик*, поделиться, комментировать, ответить, выложить, опублікувати,
        поділитися, відповісти, δημοσίευση, κοινοποίηση, απάντηση, paylaş, yayınla, yanıtla,
        gönderi yap, نشر, انشر, شارك, مشاركة, رد, פרסם, פרסום, שתף, השב, प्रकाशित*, साझा, पोस्ट, जवाब,
        bagikan, terbitkan, balas, đăng, chia sẻ, trả lời, bình luận, 投稿, 公開, 共有, 返信,
        コメントする, 发布, 發布, 發佈, 发表, 發表, 分享, 回复, 回覆, 评论, 게시, 공유, 댓글, 답글,
        โพสต์, แชร์, เผยแพร่, ตอบกลับ""",
    "send": """
        send, submit, apply, apply now, message, invite, forward, request, enrol, enroll, register,
        sign up, senden, absenden, abschicken, schicken, einreichen, bewerben, einladen, weiterleiten,
        anfragen, registrier*, envoyer, soumettre, postuler, inviter, transférer, s'inscrire, enviar,
        envíe, mandar, solicitar, invitar, reenviar, registrarse, submeter, candidatar*, convidar,
        encaminhar, inscrever*, invia, inviare, inoltra*, invita*, candidati, iscriviti, verstuur*,
        versturen, verzend*, indienen, solliciteer*, skicka, ansök*, bjud in, send inn, søk, ansøg,
        lähetä, hae, wyślij, prześlij, złóż, aplikuj, zaproś, odeslat, odoslať, poslat, küld*, elküld*,
        beküld*, trimite*, отправ*, послать, подать, пригласить, зарегистрир*, надісл*, відправ*,
        подати, запросити, αποστολή, υποβολή, gönder, başvur, davet et, kaydol, إرسال, أرسل, ارسل,
        تقديم, قدم, دعوة, שלח, שליחה, הגש, הזמן חברים, भेज*, सबमिट, आवेदन, kirim, ajukan, daftar, gửi,
        nộp, đăng ký, 送信, 送る, 提出, 申し込, 申込, 応募, 招待, 发送, 發送, 提交, 递交, 遞交, 申请,
        申請, 邀请, 邀請, 보내기, 전송, 제출, 신청, 지원하기, 초대, ส่ง, ยื่น, สมัคร""",
    "delete": """
        delete, remove, erase, discard, cancel order, cancel subscription, cancel booking, cancel,
        unsubscribe, deactivate, terminate, revoke, wipe, reset, empty trash, clear all, close account,
        uninstall, destroy, drop, purge, archive, lösch*, entfern*, verwerfen, stornier*, kündig*,
        abbestell*, deaktivier*, widerruf*, zurücksetzen, leeren, abmelden von, supprim*, effacer,
        retirer, annuler, résilier, désactiver, désabonner, se désabonner, révoquer, réinitialiser,
        elimin*, borrar, quitar, cancelar, anular, desactivar, revocar, restablecer, vaciar, excluir,
        apagar, remover, desativar, revogar, cancella*, rimuov*, elimina*, annulla*, disdici,
        disattiva*, revoca*, svuota, verwijder*, wis, wissen, annuleer*, annuleren, opzeggen,
        deactiveer*, ta bort, radera*, avbryt, avboka, slett, slet, fjern, annuller, opsig, poista,
        peruuta, usuń, usun, skasuj, anuluj, wypisz, dezaktywuj, smazat, odstran*, zrušit, zmazať,
        zrušiť, töröl*, törlés, lemond*, șterge*, elimină, anulează, удал*, стереть, отменить,
        отмена заказа, очистить, деактивир*, видал*, скасув*, διαγραφή, ακύρωση, κατάργηση, sil, kaldır,
        iptal et, iptal, حذف, احذف, إزالة, إلغاء, מחק, מחיקה, הסר, ביטול, בטל, हटा*, मिटा*, रद्द, hapus,
        batalkan, xóa, xoá, hủy, gỡ bỏ, 削除, 消去, 取り消, 取消, キャンセル, 解約, 退会, 删除, 刪除,
        移除, 清空, 注销, 註銷, 取消订单, 삭제, 제거, 취소, 탈퇴, 해지, ลบ, ยกเลิก""",
    "confirm": """
        confirm, i agree, agree, accept, approve, authorize, authorise, allow, grant, sign, e-sign,
        consent, finalize, finalise, complete, enable, connect, link account, verify, acknowledge,
        finish, vote, bestätig*, zustimm*, akzeptier*, annehmen, genehmig*, erlauben, zulassen,
        autorisier*, unterschreib*, unterzeichn*, einwillig*, abschließen, confirmer, accepter,
        j'accepte, approuver, autoriser, signer, valider, finaliser, voter, confirmar, acepto, aceptar,
        aprobar, autorizar, permitir, firmar, validar, aceitar, aprovar, assinar, concluir, conferma*,
        accett*, approva*, autorizza*, consenti, firmare, completa, bevestig*, akkoord, accepteer*,
        accepteren, goedkeur*, toestaan, ondertekenen, bekräfta, godkänn*, acceptera, signera, tillåt,
        bekreft, godkend*, godta, vahvista, hyväksy, allekirjoita, potwierdź, potwierdzam, zaakceptuj,
        akceptuję, zatwierdź, zgadzam się, podpisz, potvrdit, souhlasím, přijmout, podepsat, potvrdiť,
        megerősít*, elfogad*, aláír*, confirmă, acceptă, semnează, подтверд*, подтвержд*, соглас*,
        принять, принимаю, разрешить, одобрить, подписать, підтверд*, погодж*, прийняти, підписати,
        επιβεβαίωση, αποδοχή, συμφωνώ, υπογραφή, onayla, kabul et, kabul ediyorum, izin ver, imzala,
        تأكيد, تاكيد, أوافق, اوافق, موافق, موافقة, قبول, السماح, توقيع, אשר, אישור, מאשר, הסכמה, חתום,
        पुष्टि, स्वीकार, सहमत, अनुमति, konfirmasi, setuju, terima, izinkan, xác nhận, đồng ý, chấp nhận,
        cho phép, ký, 確認, 確定, 同意, 承認, 許可, 署名, 确认, 确定, 接受, 批准, 授权, 授權, 允许,
        允許, 签署, 簽署, 확인, 동의, 승인, 허용, 서명, ยืนยัน, ยอมรับ, อนุญาต, ตกลง""",
}
HARMLESS = """
    sort order, order by, order history, my orders, your orders, order status, track order,
    track my order, payment methods, sign in, sign out, sign on, log in, accessibility statement,
    privacy policy, terms of payment, reply to all reviews, accept all, accept all cookies,
    accept cookies, allow all, allow all cookies, reject all, apply filter, apply filters,
    alle akzeptieren, tout accepter, aceptar todas, accetta tutto, aceitar tudo, alles accepteren,
    show replies, view replies, view comments, show comments, read comments, book reviews, books,
    accept language"""
MOST_WORDS_OF_LINK = 5


def reasons(label: str, *, leads: bool = False) -> Iterator[str]:
    """Why what is labelled so matters; of what only `leads` to a page short labels count, not headlines."""
    text = _folded(label)
    if text in _harmless() or (leads and len(text.split()) > MOST_WORDS_OF_LINK):
        return
    for reason, expression in _expressions().items():
        if expression.search(text):
            yield reason


def _folded(text: str) -> str:
    """As letters are compared: without case, invisible characters, or ways to write the same."""
    visible = "".join(
        char for char in unicodedata.normalize("NFKC", text) if unicodedata.category(char) != "Cf"
    )
    return " ".join(unicodedata.normalize("NFC", visible.casefold()).split())


@cache
def _harmless() -> frozenset[str]:
    return frozenset(_folded(words) for words in HARMLESS.split(","))


@cache
def _expressions() -> dict[str, re.Pattern[str]]:
    return {
        reason: re.compile("|".join(_expression(_folded(word)) for word in words.split(",") if word.strip()))
        for reason, words in TELLING.items()
    }


def _expression(word: str) -> str:
    if re.search(r"[\u0e00-\u0e7f\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af]", word):
        return re.escape(word)
    not_in = r"(?! (?:in|out|on|up)\b)" if word == "sign" else ""
    letters = re.escape(word).replace(r"\*", r"\w*")
    return rf"(?<!\w){letters}(?!\w){not_in}"
